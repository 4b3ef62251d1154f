"""The exact inverse, by every solver, the learned one, denoising and drawing: on the device as on the CPU."""

import time
import warnings

import pytest
import torch
from conftest import OPTIONS, perturbed

from gpu.device import (
    CUDA,
    DEVICE,
    MID,
    error,
    exact,
    images,
    largest,
    mid_flow,
    needs_cuda,
    numbers,
    slow_on_a_cpu,
    small_flow,
    there,
)
from labcore import BackwardModel, denoise, invert, sample
from labcore.config import BackwardConfig
from labcore.data.transforms import to_uint8
from labcore.inverse.decode import BlockDecoder
from labcore.inverse.fixed_point import solve_block
from labcore.inverse.methods import Method, starflow
from labcore.inverse.params import GuidedParams
from labcore.zoo import load

WAYS = {
    "plain": {},
    "guided": {"guidance": 1.5, "attn_temp": 0.7},
    "guided linearly": {"guidance": 1.5, "guidance_schedule": "linear", "attn_temp": 0.7},
}


def noise(flow, count: int, seed: int = 2):
    return numbers(count, flow.config.tokens, flow.config.token_dim, seed=seed)


@pytest.mark.parametrize(("options", "way"), [(o, w) for o in OPTIONS for w in WAYS if CUDA or "linear" in w])
def test_inverse_float64(options, way):
    flow = perturbed(**OPTIONS[options])
    z, (_, y) = noise(flow, 3), images(flow, 3)
    want = invert(flow, z, y, **WAYS[way], compiled=False).x
    flow.to(DEVICE)
    assert largest(invert(flow, there(z), there(y), **WAYS[way], compiled=False).x, want) < 1e-9


@torch.no_grad()
def round_trip(flow, x, y) -> torch.Tensor:
    return invert(flow, flow(x, y).z.float(), y, compiled=False).x


def test_inverse_float32():
    flow = mid_flow().to(DEVICE)
    x, y = images(flow, 4)
    assert error(round_trip(flow, there(x, flow), there(y)), x) < 1e-4


def test_inverse_bf16(record_property):
    """Also, that a second call is not much quicker: cuDNN would make a plan for every length of the cache in the first."""
    flow, seconds = mid_flow().to(DEVICE), []
    x, y = images(flow, 4)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        if CUDA:
            round_trip(flow, there(x[:3], flow), there(y[:3]))  # kernels are loaded here
        for _ in range(2):
            start = time.perf_counter()
            back = round_trip(flow, there(x, flow), there(y)).cpu()
            seconds.append(time.perf_counter() - start)
    found = error(back, x)
    record_property("round trip in bf16", found)
    record_property("seconds of the first call and the second", seconds)
    assert bool(back.isfinite().all()) and found < 0.2
    if CUDA:
        assert seconds[0] < 3 * seconds[1], seconds


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_solvers(dtype):
    flow = small_flow(dtype)
    z, (_, y) = there(noise(flow, 3), flow), images(flow, 3)
    y = there(y)
    exactly = [m.model_copy(update={"tolerance": None, "max_sweeps": None}) for m in starflow(16, 3, chunk=4)]
    want = invert(flow, z, y, compiled=False).x
    for solver in ("jacobi", "gs-jacobi", exactly):
        got = invert(flow, z, y, solver=solver, compiled=False).x
        assert largest(got, want) < (1e-9 if dtype == torch.float64 else 1e-4), solver


@pytest.mark.parametrize("recorded", [False, True] if CUDA else [False])
@pytest.mark.parametrize("guided", [False, True])
@torch.no_grad()
def test_no_waits_in_decoding(guided, recorded):
    """The tokens of a block are started one after another, and nobody waits for the device in between."""
    decoder = BlockDecoder
    if recorded:
        from labcore.inverse.graphed import RecordedDecoder as decoder
    flow = small_flow(torch.float32)
    z, y = there(noise(flow, 3), flow), there(images(flow, 3)[1])
    block, method = flow.blocks[1], Method(segments=flow.config.tokens)
    strength, weights = z.new_full((3, 1), 1.5) if guided else None, z.new_ones(flow.config.tokens)
    found = []
    for mode in ("default", "error"):  # in the first pass everything is loaded and recorded
        params = GuidedParams(block, y, z, strength, weights, decoder=decoder)
        if CUDA:
            torch.cuda.set_sync_debug_mode(mode)
        try:
            found.append(solve_block(block, 2, z, params, method)[0])
        finally:
            if CUDA:
                torch.cuda.set_sync_debug_mode("default")
    assert error(found[1], found[0]) < 1e-6
    if not guided:
        assert error(block(found[1], y).z, z) < 1e-4


def student(**changes) -> BackwardModel:
    """A learned inverse in float32 on the CPU that is no constant."""
    kept = {name: MID[name] for name in ("image_size", "patch_size", "channels", "num_classes", "width", "head_dim")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BackwardModel(BackwardConfig(**kept, num_blocks=2, layers_per_block=2, **changes)).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p), alpha=0.05)
    return model


@pytest.mark.parametrize("changes", [{}, {"max_guidance": 2.0}, {"handover": "state"}], ids=str)
@torch.no_grad()
def test_one_pass(changes):
    model = student(**changes)
    z, y = noise(model, 3), torch.tensor([-1, 4, 0])
    guidance = 1.5 if changes else 0.0
    want = exact(model)(z, y, guidance)
    model.to(DEVICE)
    got = model(there(z, model), there(y), guidance)
    for a, b in zip(got.states, want.states, strict=True):
        assert error(a, b) < 1e-5
    with torch.autocast(DEVICE.type, torch.bfloat16), warnings.catch_warnings():
        if CUDA:  # normalisation that torch does not fuse
            warnings.filterwarnings("error", message="Mismatch dtype")
        assert error(model(there(z, model), there(y), guidance).x, want.x) < 3e-2


@needs_cuda
@torch.no_grad()
def test_waits_of_a_guided_pass():
    model = student(max_guidance=2.0).to(DEVICE)
    z, y = there(noise(model, 3), model), torch.tensor([-1, 4, 0], device=DEVICE)
    model(z, y, 1.5)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model(z, y, 1.5)
    torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in seen if "synchroniz" in str(warning.message)]
    assert len(waits) <= 2, waits


def test_denoise():
    flow = mid_flow()
    x, y = images(flow, 4)
    want = denoise(exact(flow), x, y, 0.1)
    assert error(want, x) > 1e-3  # it does something
    flow.to(DEVICE)
    x, y = there(x, flow), there(y)
    whole = denoise(flow, x, y, 0.1)
    assert error(whole, want) < 1e-5
    assert error(torch.cat([denoise(flow, x[:1], y[:1], 0.1), denoise(flow, x[1:], y[1:], 0.1)]), whole) < 1e-5


@slow_on_a_cpu
def test_sample_as_on_a_cpu():
    flow, count = load("fashion-tarflow"), 32 if CUDA else 2
    want = to_uint8(sample(flow, count, torch.arange(count) % 10, guidance=0.5, seed=7, compiled=False))
    flow.to(DEVICE)
    got = to_uint8(sample(flow, count, torch.arange(count) % 10, guidance=0.5, seed=7, compiled=False)).cpu()
    away = (got.int() - want.int()).abs()
    assert int(away.amax()) <= 1 and float((away > 0).float().mean()) <= 0.005
    assert len(want.unique()) > 20
