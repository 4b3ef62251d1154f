"""Which implementation of a kernel runs; parity of Triton's is in triton_parity.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from labcore.kernels import dispatch
from labcore.kernels.affine import affine_forward


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
