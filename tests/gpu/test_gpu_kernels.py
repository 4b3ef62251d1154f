"""Triton's kernels on the device: the parity tests, and sizes that no interpreter gets through."""

import warnings

import pytest
import torch

from gpu.device import CUDA, DEVICE, error, needs_cuda
from labcore.kernels import dispatch
from labcore.kernels.affine import affine_forward
from labcore.kernels.attention import causal_attention
from labcore.kernels.change import sweep_change

if CUDA:
    pytest.importorskip("triton")
    from triton_parity import *  # noqa: F403  its tests are collected here, tolerances as they stand


@pytest.fixture(autouse=True)
def no_fallback():
    """A kernel that cannot run is an error; torch's result in its place would pass every test."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*going on with torch's")
        yield


@pytest.mark.skipif(CUDA, reason="runs above")
def test_triton_parity():
    pytest.skip("needs a CUDA device; interpreted by tests/test_kernels.py")


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=dtype)


@needs_cuda
@torch.no_grad()
def test_triton_large_cache():
    """Over 2^31 values of keys: offsets of 32 bits would read elsewhere in the last rows."""
    b, heads, m, e = 2064, 16, 1024, 64
    assert b * heads * m * e > 2**31
    keys, values = (random(b, heads, m, e, dtype=torch.bfloat16) for _ in range(2))
    q = random(b, heads, 1, e, dtype=torch.bfloat16)
    with dispatch.use("triton"):
        got = causal_attention(q, keys, values, e**-0.5)
    last = slice(b - 8, b)
    want = causal_attention(q[last].double(), keys[last].double(), values[last].double(), e**-0.5)
    assert error(got[last], want) < 2e-2


@needs_cuda
@torch.no_grad()
def test_triton_many_programs():
    """65,600 programs: more than a grid has in any direction but the first."""
    count = 65_600
    x, a, shift = (random(count, 3, 5) for _ in range(3))
    q, keys, values = random(count // 8, 8, 1, 16), random(count // 8, 8, 5, 16), random(count // 8, 8, 5, 16)
    new, old = random(count // 32, 32, 12), random(count // 32, 32, 12)

    def call():
        return *affine_forward(x, a, shift), causal_attention(q, keys, values, 0.25), *sweep_change(new, old)

    want = call()
    with dispatch.use("triton"):
        got = call()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
