"""Which implementation of a kernel runs; parity of Triton's is in triton_parity.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from labcore.kernels import dispatch
from labcore.kernels.affine import affine_forward
from labcore.kernels.attention import SHORT, full_attention


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
    with pytest.raises(ValueError, match="torch or triton, not 'cuda'"), dispatch.use("cuda"):
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
