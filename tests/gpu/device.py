"""The device that tests/gpu runs on, and what its tests share.

LABCORE_TEST_DEVICE is cpu or cuda; the default is cuda where there is one. Tests on cuda are marked `gpu` by
tests/gpu/conftest.py. `make test` leaves those out; without a CUDA device it runs the same tests on the CPU with small sizes,
and skips what only a CUDA device has.
"""

from __future__ import annotations

import copy
import os

import pytest
import torch
from conftest import perturbed
from torch import Tensor

CHOSEN = os.environ.get("LABCORE_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
if CHOSEN not in ("cpu", "cuda") or (CHOSEN == "cuda" and not torch.cuda.is_available()):
    raise pytest.UsageError(
        f"LABCORE_TEST_DEVICE was {CHOSEN!r}; allowed are cpu, and cuda where torch finds a CUDA device; change it or leave it "
        "out"
    )
DEVICE = torch.device(CHOSEN)
CUDA = DEVICE.type == "cuda"

needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
slow_on_a_cpu = pytest.mark.skipif(False, reason="") if CUDA else pytest.mark.slow
"""More than a second on a CPU: left to `make test-slow` there."""

MID = dict(image_size=64, patch_size=4, width=256, num_blocks=4, layers_per_block=4, head_dim=64)
if not CUDA:
    MID = dict(image_size=16, patch_size=4, width=32, num_blocks=2, layers_per_block=2, head_dim=16)
MID |= dict(channels=3, num_classes=10)
"""The middle size: 256 tokens of 48 values in 4 blocks of 4 layers; on a CPU 16 tokens in 2 blocks of 2 layers."""

FASHION = dict(image_size=28, channels=1, patch_size=4, num_classes=10, num_blocks=2, layers_per_block=2)
FASHION |= dict(width=128, head_dim=64) if CUDA else dict(width=16, head_dim=8)
"""A model of the embedded pictures: 49 tokens of 16 values."""


def mid_flow(seed: int = 0):
    """A MID flow in float32 on the CPU, every parameter moved by N(0, 0.02^2)."""
    return perturbed(std=0.02, dtype=torch.float32, seed=seed, **MID)


def small_flow(dtype: torch.dtype = torch.float64, seed: int = 0, **changes):
    """The perturbed flow of the other tests on the device."""
    return perturbed(dtype=dtype, seed=seed, **changes).to(DEVICE)


def exact(model):
    """A copy of the model in float64 on the CPU: the reference."""
    return copy.deepcopy(model).double().cpu()


def numbers(*shape: int, seed: int = 1, scale: float = 1.0) -> Tensor:
    """Standard normal numbers times `scale`, float64 on the CPU."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(flow, count: int, seed: int = 1) -> tuple[Tensor, Tensor | None]:
    """Images (float64) and labels on the CPU, the first without class; None for a flow without classes."""
    c = flow.config
    if not c.num_classes:
        return numbers(count, *c.image_shape, seed=seed), None
    y = torch.arange(count) % c.num_classes
    y[0] = -1
    return numbers(count, *c.image_shape, seed=seed), y


def there(x: Tensor | None, like=None) -> Tensor | None:
    """A tensor on the device, in the dtype of the model `like`; None stays None."""
    if x is None:
        return None
    return x.to(DEVICE) if like is None or not x.is_floating_point() else x.to(DEVICE, like.dtype)


def error(out: Tensor, reference: Tensor) -> float:
    """|out - reference| / |reference|, both as vectors."""
    out, reference = out.detach().double().cpu(), reference.detach().double().cpu()
    return float((out - reference).norm() / reference.norm())


def largest(out: Tensor, reference: Tensor) -> float:
    """Largest |out - reference|."""
    return float((out.detach().double().cpu() - reference.detach().double().cpu()).abs().amax())
