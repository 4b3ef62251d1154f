"""Origin of a result: code revision, library versions, device. Saved with every checkpoint and record."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

import labcore
from labcore import tf32
from labcore.files import sha256
from labcore.revision import git_revision


def stamp(*packages: str) -> dict[str, Any]:
    """Return versions (also of `packages`), git revision ("+" if the working tree has changes), device, and TF32 on a GPU."""
    return {
        "labcore": labcore.__version__,
        "revision": git_revision(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device_name(),
        **({"tf32": tf32.describe()} if torch.cuda.is_available() else {}),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def weights_hash(module: torch.nn.Module) -> str:
    """Return 16 hex digits of the sha256 over names, shapes, dtypes and values of all saved parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Return 16 hex digits of the sha256 of a file's bytes."""
    return sha256(path)[:16]


def device_name() -> str:
    """Return the GPU's name, else the processor's architecture and the number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
