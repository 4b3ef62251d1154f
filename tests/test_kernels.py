"""Which implementation of a kernel runs; parity of Triton's is in triton_parity.py."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from labcore.kernels import dispatch
from labcore.kernels.affine import affine_forward
from labcore.kernels.attention import (
    SHORT,
    attention_by_matmul,
    attention_by_sdpa,
    causal_attention,
    causal_mask,
    full_attention,
    piece_mask,
    without_cudnn,
)
from labcore.kernels.change import sweep_change


@pytest.mark.slow
def test_triton_twins_are_their_references():
    pytest.importorskip("triton")
    environment = os.environ if torch.cuda.is_available() else {**os.environ, "TRITON_INTERPRET": "1"}
    file = Path(__file__).with_name("triton_parity.py")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", str(file)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_the_choice_is_undone_and_bad_ones_are_refused(monkeypatch, as_users_run):
    with pytest.raises(RuntimeError, match="inside"), dispatch.use("triton"):
        raise RuntimeError("inside")
    assert not dispatch.by_triton(torch.zeros(1))
    with (
        pytest.raises(ValueError, match="unknown kernel backend 'cuda'; choose one of torch, triton"),
        dispatch.use("cuda"),
    ):
        pass
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with dispatch.use("triton"), pytest.raises(ValueError, match=r"run on CUDA.*TRITON_INTERPRET=1"):
        affine_forward(*torch.zeros(3, 1, 1, 1))


@pytest.mark.parametrize("tokens", [5, SHORT, SHORT + 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_attention_is_the_same_by_every_way(tokens, dtype):
    """With and without gradients, which may be computed differently, against the definition in float64."""
    q, k, v = torch.randn(3, 2, 4, tokens, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = (q.double() @ k.double().mT * 0.3).softmax(-1) @ v.double()
    with torch.no_grad():
        plain = full_attention(q, k, v, 0.3)
    for found in (plain, full_attention(q.requires_grad_(), k, v, 0.3)):
        assert found.dtype == dtype
        allowed = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
        assert (found.double() - exact).abs().max() < allowed


@pytest.mark.parametrize(("n", "m"), [(1, 9), (4, 9), (9, 9)])
def test_attention_of_the_last_positions_is_its_definition(n, m):
    q, k, v = (torch.randn(2, 3, length, 8, dtype=torch.float64) for length in (n, m, m))
    seen = torch.arange(m)[None] <= torch.arange(m - n, m)[:, None]
    want = (q @ k.mT * 0.3).masked_fill(~seen, float("-inf")).softmax(-1) @ v
    for way in (causal_attention, attention_by_sdpa, attention_by_matmul):
        torch.testing.assert_close(way(q, k, v, 0.3), want, atol=1e-12, rtol=0)


class OnCuda(NamedTuple):
    """As much of a tensor on CUDA as a choice looks at."""

    dtype: torch.dtype
    is_cuda: bool = True


def test_on_cuda_a_mask_is_only_named(as_users_run):
    """The mask that torch's flash attention knows is ours, value by value."""
    named = piece_mask(4, 9, OnCuda(torch.bfloat16))
    assert type(named).__name__ == "CausalBias"
    assert torch.equal(named._materialize(), causal_mask(4, 9, torch.device("cpu")))
    q, k, v = (torch.randn(2, 3, length, 8, dtype=torch.float64) for length in (4, 9, 9))
    want = attention_by_sdpa(q, k, v, 0.3)
    with warnings.catch_warnings(action="ignore"):  # there is no flash attention here, and torch says so
        got = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=named, scale=0.3)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    assert type(piece_mask(4, 9, q)) is torch.Tensor


def test_single_queries_on_cuda_are_not_by_cudnn():
    on = torch.backends.cuda.cudnn_sdp_enabled
    before = on()
    assert before
    with without_cudnn(torch.device("cpu")):
        assert on()
    with without_cudnn(torch.device("cuda")), without_cudnn(torch.device("cuda")):
        assert not on() and torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    assert on()


@pytest.fixture
def triton_by_default(monkeypatch):
    monkeypatch.setattr(dispatch, "DEFAULT", {"cpu": "triton"})
    monkeypatch.setattr(dispatch, "_broken", set())
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def test_the_default_is_one_line(triton_by_default, monkeypatch):
    assert dispatch.by_triton(torch.zeros(1)) and not dispatch.by_triton(torch.zeros(1), by_default=False)
    with dispatch.use("torch"):
        assert not dispatch.by_triton(torch.zeros(1))
    monkeypatch.undo()
    assert not dispatch.by_triton(torch.zeros(1)) and dispatch.DEFAULT == {"cuda": "triton", "cpu": "native"}


@pytest.mark.parametrize(
    "failure", [ImportError("no Triton"), RuntimeError("PTX is too new\nmore"), AttributeError("old")]
)
def test_a_twin_that_cannot_run_is_torchs_with_one_warning(failure, triton_by_default, monkeypatch):
    def fails(name):
        raise failure

    numbers = [torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(3)]
    q, k = torch.randn(2, 2, 1, 4), torch.randn(2, 2, 5, 4)
    with dispatch.use("torch"), torch.no_grad():
        want = [*affine_forward(*numbers), *sweep_change(*numbers[:2]), causal_attention(q, k, k, 0.5)]
    monkeypatch.setattr(dispatch, "import_module", fails)
    with pytest.warns(UserWarning, match=r"Triton's .* does not work here \(.*\); going on with torch's") as seen:
        for _ in range(2):
            with torch.no_grad(), dispatch.use("triton"):
                got = [*affine_forward(*numbers), *sweep_change(*numbers[:2]), causal_attention(q, k, k, 0.5)]
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert len(seen) == 3, "one for each twin"


def test_no_memory_is_no_reason_to_go_on(triton_by_default, monkeypatch):
    def full(name):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(dispatch, "import_module", full)
    with pytest.raises(torch.OutOfMemoryError), dispatch.use("triton"):
        affine_forward(*torch.zeros(3, 1, 1, 1))
    assert not dispatch._broken


def test_the_gradient_of_the_affine_step_by_torch_is_that_of_autograd():
    triton = pytest.importorskip("labcore.kernels.affine_triton")
    x, a, shift = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    z, log_det = affine_forward(x, a, shift)
    by_z, by_log_det = torch.randn_like(z), torch.randn_like(log_det)
    want = torch.autograd.grad((z, log_det), (x, a), (by_z, by_log_det))
    for found, wanted in zip(triton.affine_backward_reference(by_z, by_log_det, z, a), want, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
