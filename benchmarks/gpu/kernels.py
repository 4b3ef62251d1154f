"""Rows 21 and 22: the kernels that have a twin in Triton, without the time of launching them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.measure import Failed, Measured, kernel, reason_of
from benchmarks.gpu.setting import Setting, at_least, at_most, entry
from labcore.kernels import dispatch
from labcore.kernels.affine import affine_forward
from labcore.kernels.attention import causal_attention
from labcore.kernels.change import sweep_change

SETS = 4
"""Sets of operands that calls take in turn, so that they do not stay in the card's cache; our choice."""
MARGIN = 1.5
"""Lower bounds that a kernel may take: the target."""


def cached_attention(s: Setting) -> Iterator[dict[str, Any]]:
    """Row 21: one query a head over cached keys and values, in float32 and bfloat16."""
    b, heads, keys, e = s.sizes.attention
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        make = lambda n, dtype=dtype: torch.randn(b, heads, n, e, device=s.device, dtype=dtype)  # noqa: E731
        sets = [(make(1), make(keys), make(keys)) for _ in range(SETS)]
        call = torch.no_grad()(lambda q, k, v: causal_attention(q, k, v, e**-0.5))
        floor = s.bounds.traffic(2 * b * heads * keys * e * dtype.itemsize)
        yield from both(s, f"attention {precision}", call, sets, floor)


def affine_and_change(s: Setting) -> Iterator[dict[str, Any]]:
    """Row 22: the affine step with its gradient, and what a sweep has changed."""
    shape = s.sizes.affine
    make = lambda: torch.randn(shape, device=s.device)  # noqa: E731
    inputs = [(make().requires_grad_(), make().requires_grad_(), make().requires_grad_(), make()) for _ in range(2)]
    size = make().nbytes

    def affine(x: Tensor, log_scale: Tensor, shift: Tensor, grad: Tensor) -> None:
        z, log_det = affine_forward(x, log_scale, shift)
        torch.autograd.grad((z, log_det), (x, log_scale, shift), (grad, torch.ones_like(log_det)))

    pairs = [(make(), make()) for _ in range(SETS)]
    change = torch.no_grad()(sweep_change)
    # reads x, log_scale, shift and writes z; reads the gradient, z, log_scale and writes two gradients
    yield from both(s, "affine step", affine, inputs, s.bounds.traffic(9 * size), 3)
    yield from both(s, "change", change, pairs, s.bounds.traffic(2 * size), 3)


def both(
    s: Setting, case: str, call: Callable[..., Any], sets: list[tuple], floor: float | None, times: float | None = None
) -> Iterator[dict[str, Any]]:
    """torch's implementation and Triton's. times: target of torch's seconds by Triton's."""
    with dispatch.use("torch"):
        by_torch = kernel(call, sets, s.budget / 4)
    yield entry(f"{case}, torch", by_torch, floor)
    by_triton = triton(s, call, sets)
    if isinstance(by_triton, Failed):
        yield entry(f"{case}, Triton", None, floor, reason=by_triton.reason)
        return
    checks = [at_most("floors", floor and by_triton.seconds / floor, MARGIN)]
    if times is not None:
        checks.append(at_least("times torch", by_torch.seconds / by_triton.seconds, times))
    yield entry(f"{case}, Triton", by_triton, floor, checks=tuple(checks))


def triton(s: Setting, call: Callable[..., Any], sets: list[tuple]) -> Measured | Failed:
    """The call by Triton's twin; torch's numbers stay where that fails."""
    if not s.cuda:
        return Failed("needs CUDA")
    try:
        with dispatch.use("triton"):
            return kernel(call, sets, s.budget / 4)
    except Exception as error:
        return Failed(reason_of(error))
