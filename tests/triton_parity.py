"""Triton's kernels are torch's references, values and gradients, in odd sizes; interpreted, where there is no GPU.

test_kernels.py runs this in a process of its own: the interpreter is chosen when Triton is first imported.
"""

import functools

import pytest
import torch
import torch.nn.functional as F
from conftest import perturbed

from labcore import invert
from labcore.inverse.compiled import arguments, token_step
from labcore.inverse.decode import BlockDecoder
from labcore.inverse.params import branches
from labcore.inverse.triton_step import parts_for, triton_step
from labcore.kernels import dispatch
from labcore.kernels.affine import affine_forward
from labcore.kernels.attention import causal_attention
from labcore.kernels.change import sweep_change
from labcore.kernels.token_triton import attend, linear

pytestmark = pytest.mark.filterwarnings("error:.*does not work here")  # torch's way in its place proves nothing

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def both(call):
    with dispatch.use("torch"):
        want = call()
    with dispatch.use("triton"):
        got = call()
    return want, got


def numbers(*shape, dtype, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 16, 12), (2, 7, 300), (5, 1, 1024)])
def test_affine_step_and_its_gradients(shape, dtype):
    values = [numbers(*shape, dtype=dtype, seed=seed).requires_grad_() for seed in range(3)]
    weights = numbers(*shape, dtype=dtype, seed=3), numbers(shape[0], dtype=dtype, seed=4)

    def call():
        out = affine_forward(*values)
        loss = sum((o * w).sum() for o, w in zip(out, weights, strict=True))
        return [*out, *torch.autograd.grad(loss, values)]

    tolerance = 1e-12 if dtype == torch.float64 else 2e-4
    for want, got in zip(*both(call), strict=True):
        torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


def test_affine_step_of_views_and_halves():
    x, a, shift = (numbers(3, 8, 5, dtype=torch.bfloat16, seed=seed).flip(1).transpose(1, 2) for seed in range(3))
    for want, got in zip(*both(lambda: affine_forward(x, a, shift)), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_a_gradient_of_one_output_alone():
    values = [numbers(2, 3, 4, dtype=torch.float64, seed=seed).requires_grad_() for seed in range(3)]
    for which in (0, 1):
        want, got = both(
            lambda which=which: torch.autograd.grad(
                affine_forward(*values)[which].sum(), values, materialize_grads=True
            )
        )
        for a, b in zip(want, got, strict=True):
            torch.testing.assert_close(b, a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("b", "heads", "m", "e"), [(1, 1, 1, 8), (3, 2, 49, 64), (2, 3, 65, 24), (2, 1, 130, 16)])
@torch.no_grad()
def test_cached_attention(b, heads, m, e, dtype):
    cache = numbers(2, b, heads, m + 9, e, dtype=dtype)
    q = numbers(b, heads, 1, e, dtype=dtype, seed=1)
    want, got = both(lambda: causal_attention(q, *cache[:, :, :, :m], e**-0.5))
    assert got.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@torch.no_grad()
def test_cached_attention_bears_large_logits():
    q, k, v = (100 * numbers(1, 1, m, 16, dtype=torch.float64, seed=m) for m in (1, 70, 70))
    want, got = both(lambda: causal_attention(q, k, v, 1.0))
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-12)


@pytest.mark.parametrize("d", [1, 12, 48, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_change_of_a_sweep(d, dtype):
    new = numbers(3, 7, d, dtype=dtype)
    old = new.clone()
    old[0, 1, 0] += 0.25
    old[1, 2] *= 1 + torch.finfo(dtype).eps  # rounding
    old[2, 3, -1], old[2, 4, 0] = float("nan"), float("inf")
    (want, still), (got, got_still) = both(lambda: sweep_change(new, old))
    assert torch.equal(got, want) and torch.equal(got_still, still)
    assert want[0, 1] == 0.25 and want[2, 3] == want[2, 4] == float("inf") and bool(still[1, 2])
    assert int((~still).sum()) == 3


def test_whole_flow_and_inverses():
    flow = perturbed(num_blocks=2).to(DEVICE)
    x, y = numbers(3, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 4, -1], device=DEVICE)

    def call():
        out = flow(x, y)
        inverses = [
            invert(flow, out.z, y, g, solver=s, compiled=False).x for g in (0.0, 1.5) for s in ("sequential", "jacobi")
        ]
        return [out.z, out.log_det, *inverses]

    for want, got in zip(*both(call), strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
@pytest.mark.parametrize("activation", ["none", "gelu", "swiglu"])
@pytest.mark.parametrize(("rows", "k", "n"), [(1, 24, 10), (2, 100, 12), (2, 2500, 6)])
@torch.no_grad()
def test_linear_of_few_rows(rows, k, n, activation, norm, dtype):
    """Against torch's operations in float64 on the same weights. Activations of a model in float32 have bfloat16 weights."""
    of_x = torch.float64 if dtype == torch.float64 else torch.float32
    x, residual = numbers(rows, k, dtype=of_x), numbers(rows, n, dtype=of_x, seed=3)
    outputs = 2 * n if activation == "swiglu" else n
    weight, bias = numbers(outputs, k, dtype=dtype, seed=1) / k**0.5, numbers(outputs, dtype=dtype, seed=2)
    y = x.double()
    if norm != "none":
        y = (F.layer_norm if norm == "layer" else F.rms_norm)(y, (k,), eps=1e-3)
    y = F.linear(y, weight.double(), bias.double())
    if activation == "gelu":
        y = F.gelu(y)
    if activation == "swiglu":
        gate, value = y.chunk(2, dim=-1)
        y = F.silu(gate) * value
    tolerance = 1e-11 if dtype == torch.float64 else 1e-5
    got = linear(x, weight, bias, norm, 1e-3, activation)
    assert got.dtype == of_x
    torch.testing.assert_close(got.double(), y, atol=tolerance, rtol=tolerance)
    got = linear(x, weight, bias, norm, 1e-3, activation, residual)
    torch.testing.assert_close(got.double(), residual + y, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tempered", [False, True])
@pytest.mark.parametrize("position", [0, 1, 64, 70])
@torch.no_grad()
def test_attention_that_keeps_the_token(position, tempered, dtype):
    rows, heads, tokens, e = 3, 2, 71, 24
    of_x = torch.float64 if dtype == torch.float64 else torch.float32
    qkv = numbers(rows, 3 * heads * e, dtype=of_x)
    keys, values = numbers(2, rows, heads, tokens, e, dtype=dtype, seed=1).unbind(0)
    before = keys.clone(), values.clone()
    keys[:, :, position:], values[:, :, position:] = float("nan"), float("nan")
    temperature = numbers(rows, 1, 1, 1, dtype=of_x, seed=2).abs() + 0.5 if tempered else None
    got = attend(qkv, keys, values, torch.tensor([position], device=DEVICE), temperature, e**-0.5)
    q, k, v = (part[:, :, None] for part in qkv.view(rows, 3, heads, e).unbind(1))
    for cache, old, new in ((keys, before[0], k), (values, before[1], v)):
        torch.testing.assert_close(cache[:, :, :position], old[:, :, :position], atol=0, rtol=0)
        kept = cache[:, :, position : position + 1]
        torch.testing.assert_close(kept, new.to(dtype), atol=0, rtol=2**-7 if dtype == torch.bfloat16 else 0)
        assert cache[:, :, position + 1 :].isnan().all()
    seen, of = keys[:, :, : position + 1].double(), values[:, :, : position + 1].double()
    logits = q.double() @ seen.mT * e**-0.5 / (1.0 if temperature is None else temperature.double())
    want = (logits.softmax(-1) @ of).flatten(1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("changes", [{}, dict(norm="rmsnorm", mlp="swiglu", head_dim=16, width=32)], ids=str)
@pytest.mark.parametrize(("images", "guided"), [(1, False), (1, True), (3, True)])
@torch.no_grad()
def test_step_of_a_token(images, guided, changes):
    """Token after token, against the step that torch computes, with a cache of its own."""
    block = perturbed(**changes).blocks[1].to(DEVICE)
    z = numbers(images, 16, 12, dtype=torch.float64)
    y = torch.arange(images, device=DEVICE)
    condition, temperature = branches(block, y, z, z.new_ones(images, 1) if guided else None, 0.6)
    decoder, rows = BlockDecoder(block, condition, temperature), images * (2 if guided else 1)
    steps = [token_step, functools.partial(triton_step, *parts_for(rows))]
    caches = [decoder.new_cache(rows, 16, z) for _ in steps]
    for position in range(3):
        u, place = z[:, position].repeat(rows // images, 1), torch.tensor([position], device=DEVICE)
        pairs = zip(steps, caches, strict=True)
        want, got = (step(*arguments(decoder, cache, rows, u, place)) for step, cache in pairs)
        torch.testing.assert_close(got, want, atol=1e-11, rtol=0)
