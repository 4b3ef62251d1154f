"""A flow on the device is the flow in float64 on the CPU: values and gradients, in every number format."""

import math
import subprocess
import sys

import pytest
import torch
from conftest import OPTIONS, perturbed
from torch.nn.attention import SDPBackend

from gpu.device import CUDA, DEVICE, error, exact, images, mid_flow, needs_cuda, slow_on_a_cpu, small_flow, there

BATCH = 8 if CUDA else 2
SHAPES = {
    "training": (8, 16, 256, 256, 64),
    "one query, short cache": (8, 16, 1, 17, 64),
    "one query, full cache": (8, 16, 1, 256, 64),
    "one query, one image": (1, 16, 1, 256, 64),
    "sweep after a prefix": (8, 16, 64, 256, 64),
    "learned inverse": (8, 16, 258, 258, 64),
}
"""(b, heads, queries, keys, head_dim) of the attention calls of a 1024-wide flow, its inverse, and its learned inverse."""


def product_error() -> float:
    a, b = (torch.randn(512, 512, device=DEVICE) for _ in range(2))
    return error(a @ b, a.double() @ b.double())


@needs_cuda
def test_facts(record_property):
    """What the card is, written down; whatever depends on it is asserted."""
    from labcore import tf32

    properties = torch.cuda.get_device_properties(DEVICE)
    record_property("device", properties.name)
    record_property("memory", properties.total_memory)
    record_property("capability", torch.cuda.get_device_capability(DEVICE))
    record_property("torch, CUDA, cuDNN", (torch.__version__, torch.version.cuda, torch.backends.cudnn.version()))
    with tf32.use(True):
        assert tf32.enabled() and 1e-5 < product_error() < 1e-3
    with tf32.use(False):
        assert not tf32.enabled() and product_error() < 1e-6
    assert torch.cuda.get_device_capability(DEVICE) >= (8, 0) and torch.cuda.is_bf16_supported()


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_facts_of_attention(name, dtype, record_property):
    """Which of torch's implementations takes each call that the lab makes."""
    b, heads, n, m, e = SHAPES[name]
    q, k, v = (torch.randn(b, heads, length, e, device=DEVICE, dtype=dtype) for length in (n, m, m))
    causal, mask = n == m and name == "training", None
    if 1 < n < m:
        mask = torch.ones(n, m, dtype=torch.bool, device=DEVICE).tril(m - n)
    chosen = torch._fused_sdp_choice(q, k, v, mask, 0.0, causal, scale=e**-0.5)
    record_property(f"attention, {name}, {dtype}", SDPBackend(chosen).name)


@slow_on_a_cpu
def test_facts_of_the_house(record_property):
    """Every module of labcore can be imported here."""
    code = """
        import importlib, pkgutil, sys, labcore
        names = [m.name for m in pkgutil.walk_packages(labcore.__path__, "labcore.") if not m.name.endswith("__main__")]
        sys.argv = ["lab", "--help"]
        for name in names:
            importlib.import_module(name)
        print(len(names))
    """
    lines = "\n".join(line[8:] for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-2000:]
    record_property("modules", int(done.stdout))


@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_forward_float64(options):
    flow = perturbed(**OPTIONS[options])
    x, y = images(flow, 4)
    want = flow(x, y)
    flow.to(DEVICE)
    got = flow(there(x), there(y))
    assert error(got.z, want.z) < 1e-12
    assert bool((want.log_det == 0).all()) == bool((got.log_det == 0).all()) == (options == "volume-preserving")
    if options != "volume-preserving":
        assert error(got.log_det, want.log_det) < 1e-12


@torch.no_grad()
def forward(flow, autocast: torch.dtype | None = None):
    """The flow on the device, its outputs there, and those of the reference."""
    x, y = images(flow, BATCH)
    want = exact(flow)(x, y)
    flow.to(DEVICE)
    with torch.autocast(DEVICE.type, autocast or torch.bfloat16, enabled=autocast is not None):
        return flow(there(x, flow), there(y)), want


def test_forward_float32():
    got, want = forward(mid_flow())
    assert error(got.z, want.z) < 3e-6 and error(got.log_det, want.log_det) < 3e-6


@needs_cuda
def test_forward_tf32(record_property):
    from labcore import tf32

    with tf32.use(True):
        got, want = forward(mid_flow())
    errors = error(got.z, want.z), error(got.log_det, want.log_det)
    record_property("errors of z and log_det in TF32", errors)
    assert max(errors) < 1e-3 and errors[0] > 1e-6


def test_forward_bf16(record_property):
    flow = mid_flow()
    got, want = forward(flow, torch.bfloat16)
    assert got.z.dtype == got.log_det.dtype == torch.float32
    of_z, nats = (
        error(got.z, want.z),
        float((got.log_det.double().cpu() - want.log_det).abs().amax()) / flow.config.dims,
    )
    record_property("error of z, and of log_det in nats/dim, in bf16", (of_z, nats))
    assert 1e-4 < of_z < 2e-2 and nats < 5e-3


def gradients(flow, autocast: bool) -> dict[str, torch.Tensor]:
    """Of the likelihood in nats/dim, wherever the flow is."""
    x, y = images(flow, BATCH)
    place = next(flow.parameters()).device
    with torch.autocast(place.type, torch.bfloat16, enabled=autocast):
        out = flow(x.to(place, flow.dtype), y.to(place))
        loss = -(flow.log_prior(out.z) + out.log_det).mean() / flow.config.dims
    loss.backward()
    return {name: p.grad.double().cpu() for name, p in flow.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16"])
def test_gradients(autocast, record_property):
    flow = mid_flow()
    want = gradients(exact(flow), False)
    got = gradients(flow.to(DEVICE), autocast)
    assert got.keys() == want.keys() and len(want) > 20
    errors = {name: error(got[name], want[name]) for name in want}
    record_property("largest relative error of a gradient", max(errors.values()))
    for name in want if autocast else ():
        cosine = float(torch.cosine_similarity(got[name].flatten(), want[name].flatten(), dim=0))
        ratio = float(got[name].norm() / want[name].norm())
        assert cosine > 0.999 and math.isclose(ratio, 1, abs_tol=0.03), (name, cosine, ratio)
    if not autocast:
        assert max(errors.values()) < 1e-4, max(errors, key=errors.get)


def test_types_on_the_device():
    """Nothing of a flow on the device comes back in another format or at another place."""
    flow = small_flow(torch.float32)
    x, y = images(flow, 2)
    out = flow(there(x, flow), there(y))
    for value in (out.z, out.log_det, *out.latents):
        assert value.device.type == DEVICE.type and value.dtype == torch.float32
