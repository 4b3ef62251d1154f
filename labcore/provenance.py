"""What made a result: code revision, library versions, device. Saved with every checkpoint and record."""

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
    """Versions (of `packages` too), git revision ("+" where the working tree has changes), device name, and on a GPU the state
    of TF32."""
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
    """16 hex digits of the sha256 over names, shapes, dtypes and values of all parameters and buffers that are saved."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str:
    """16 hex digits of the sha256 of a file's bytes."""
    return sha256(path)[:16]


def device_name() -> str:
    """The GPU's name, else the processor's architecture and the number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
