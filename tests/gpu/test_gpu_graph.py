"""The inverse by a CUDA graph is the eager one (`compiled=False`), whatever else goes on.

compiled=None records the plain step, compiled=True a compiled one. A CPU records nothing: there the calls are made with True,
and with a program of a token that is not compiled.
"""

import copy
import threading
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from gpu.device import CUDA, DEVICE, error, images, mid_flow, needs_cuda, numbers, slow_on_a_cpu, small_flow, there
from labcore import invert
from labcore.inverse import compiled

FALLBACK = ".*does not work here"
by_every_way = pytest.mark.parametrize("way", [None, True] if CUDA else [True])


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch):
    """Falling back is an error; on a CPU nothing is compiled, which would take minutes and is tested elsewhere."""
    if not CUDA:
        monkeypatch.setattr(compiled, "program", lambda: compiled.token_step)
        monkeypatch.setattr(compiled, "_WORKS", {})
        monkeypatch.setattr(compiled, "_try", lambda *_: None)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=FALLBACK)
        yield


def given(flow, count: int, seed: int = 2, scale: float = 1.0):
    """Noise and labels for a flow on the device. scale: of the noise; that of MID, with random weights, must be small."""
    z = there(numbers(count, flow.config.tokens, flow.config.token_dim, seed=seed, scale=scale), flow)
    return z, there(images(flow, count)[1])


def assert_eager(way, flow, z, y, tolerance: float = 1e-5, **settings) -> None:
    want = invert(flow, z, y, **settings, compiled=False).x
    got = invert(flow, z, y, **settings, compiled=way).x
    assert bool(got.isfinite().all()) and error(got, want) < tolerance


@pytest.mark.parametrize("count", [1, 3, 16])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
@by_every_way
def test_graph_is_eager(count, guidance, way):
    flow = small_flow(torch.float32)
    assert_eager(way, flow, *given(flow, count), guidance=guidance)


@by_every_way
def test_graph_is_eager_with_guidance_for_each_image(way):
    flow = small_flow(torch.float32, positions="rope", mlp="swiglu", norm="rmsnorm")
    strengths = there(torch.tensor([0.0, 0.5, 2.0]))
    assert_eager(way, flow, *given(flow, 3), guidance=strengths, guidance_schedule="linear")


@by_every_way
def test_graph_is_eager_without_classes(way):
    flow = small_flow(torch.float32, num_classes=0)
    assert_eager(way, flow, given(flow, 3)[0], None, guidance=0.5, attn_temp=0.3)


@pytest.mark.parametrize("count", [1, 3, 16])
@by_every_way
def test_graph_is_eager_in_bf16(count, way):
    flow = mid_flow().to(DEVICE)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert_eager(way, flow, *given(flow, count, scale=0.25), 3e-2, guidance=1.0)


@slow_on_a_cpu
@by_every_way
def test_graph_sees_new_numbers(way):
    """What a graph has recorded is memory, not numbers: other noise, labels, weights and flows come out as they should."""
    first, second = small_flow(torch.float32), small_flow(torch.float32, seed=1)
    for seed in (2, 3):
        assert_eager(way, first, *given(first, 3, seed))
    z, y = given(first, 3)
    assert_eager(way, first, z, (y + 1) % 5)
    before = invert(first, z, y, compiled=way).x
    with torch.no_grad():
        for p in first.parameters():
            p.add_(0.02)
    assert_eager(way, first, z, y)
    assert error(invert(first, z, y, compiled=way).x, before) > 1e-3
    for flow in (second, first, second):
        assert_eager(way, flow, z, y)
        assert_eager(way, flow, z, y, guidance=1.5)
    with torch.no_grad():
        first.load_state_dict(second.state_dict())
    assert error(invert(first, z, y, compiled=way).x, invert(second, z, y, compiled=False).x) < 1e-5
    moved = copy.deepcopy(first)
    del first, second  # memory of theirs may be used again
    assert_eager(way, moved, z, y)


@needs_cuda
@by_every_way
def test_graph_beside_a_loader(way):
    """A thread that pins memory and a thread that trains neither break a recording nor are broken by it.

    The thread that trains draws from a generator of its own, as the lab does: torch refuses to draw from a device's default
    generator in any thread while something is recorded there.
    """
    stop, failures = threading.Event(), []

    def guarded(work):
        def loop():
            try:
                while not stop.is_set():
                    work()
            except Exception as wrong:
                failures.append(wrong)

        return threading.Thread(target=loop)

    data = TensorDataset(torch.randn(512, 1000))
    net = torch.nn.Sequential(torch.nn.Linear(1000, 500), torch.nn.GELU(), torch.nn.Linear(500, 1000)).to(DEVICE)
    optimizer = torch.optim.AdamW(net.parameters())
    own = torch.Generator(DEVICE).manual_seed(0)

    def read():
        for (x,) in DataLoader(data, 32, pin_memory=True, num_workers=0):
            x.to(DEVICE, non_blocking=True)

    def step():
        with torch.cuda.stream(torch.cuda.Stream()):
            optimizer.zero_grad()
            net(torch.randn(64, 1000, generator=own, device=DEVICE)).square().mean().backward()
            optimizer.step()

    threads = [guarded(read), guarded(step)]
    try:
        for thread in threads:
            thread.start()
        for seed, count in enumerate((1, 2, 4, 8)):  # each is recorded anew
            flow = small_flow(torch.float32, seed=seed)
            z, y = given(flow, count)
            assert_eager(way, flow, z, y)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


@needs_cuda
def test_graph_memory(record_property):
    """Inverses one after another take no more memory: one pool, one stream, nothing left of a recording."""
    flow = mid_flow().to(DEVICE)
    reserved = []
    for number in range(50):
        z, y = given(flow, 4, seed=number, scale=0.25)
        invert(flow, z, y, 1.0 if number % 2 else 0.0, compiled=None)
        reserved.append(torch.cuda.memory_reserved())
    record_property("MiB reserved after 5 and after 50 inverses", [x / 2**20 for x in (reserved[4], reserved[-1])])
    assert reserved[-1] - reserved[4] <= 64 * 2**20


@needs_cuda
@by_every_way
def test_graph_falls_back(monkeypatch, way):
    """A recording that fails is one warning, and the result is right."""

    def broken(*_, **__):
        raise RuntimeError("this recording was refused")

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", broken)
    flow = small_flow(torch.float32, seed=3, width=24)  # of no other test, so that nothing is recorded yet
    z, y = given(flow, 5)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        got = [invert(flow, z, y, compiled=way).x for _ in range(2)]
    assert len([w for w in seen if "going on without it" in str(w.message)]) == 1, [str(w.message) for w in seen]
    for x in got:
        assert error(x, invert(flow, z, y, compiled=False).x) < 1e-6
