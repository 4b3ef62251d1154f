"""`make test-gpu` and tests/gpu on a machine without a GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).parents[1]
HIDDEN = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_one_line_where_there_is_no_gpu():
    words = ["make", "--no-print-directory", "-C", str(PROJECT), "-o", ".venv/.ready", "test-gpu"]
    words.append(f"BIN={Path(sys.executable).parent}")
    done = subprocess.run(words, capture_output=True, text=True, env=HIDDEN, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["make test-gpu: skipped, torch finds no CUDA device"]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env={**HIDDEN, "LABCORE_TEST_DEVICE": "cuda"},
        timeout=120,
        cwd=PROJECT,
    )
    assert done.returncode != 0
    assert (
        "LABCORE_TEST_DEVICE was 'cuda'; allowed are cpu, and cuda where torch finds a CUDA device"
        in done.stdout + done.stderr
    )
