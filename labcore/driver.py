"""Reasons why torch does not use a GPU of this machine: a driver that is too old, or a torch that is built without CUDA."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from functools import cache

import torch


@cache
def has_cuda() -> bool:
    """Return whether torch can use a GPU; warn once per process if the driver lists a GPU that torch cannot use."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and (gpu := _listed()):
        warnings.warn(problem(gpu, [str(warning.message) for warning in warned]), stacklevel=2)
    return available


def problem(gpu: str, torch_warnings: list[str]) -> str:
    """Return the message: which GPU is not used, why, and what to do. torch_warnings: torch's own warnings."""
    if torch.version.cuda is None:
        reason = f"torch {torch.__version__} is built without CUDA"
        remedy = "install a torch with CUDA"
    else:
        reason = torch_warnings[0].strip().splitlines()[0] if torch_warnings else "torch finds no device"
        remedy = f"update the NVIDIA driver, or install a torch for an older CUDA than {torch.version.cuda}"
    return f"{gpu} is not used: {reason}. Everything runs on the CPU; {remedy}"


def _listed() -> str | None:
    """Return the first GPU that the driver lists; None without a driver or a GPU."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    try:
        found = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    line = found.stdout.strip().splitlines()[:1]
    return line[0].split(" (UUID")[0] if found.returncode == 0 and line and line[0].startswith("GPU") else None
