"""Checksums of files, and what has become of files whose checksums are known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(values: Mapping[str, Any]) -> str:
    """The sha256 of JSON values, whatever the order of their keys, 64 hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_sizes(folder: Path, sizes: Mapping[str, int]) -> None:
    """Compare files with their sizes in bytes; ValueError names the first that is missing or has another size."""
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if (actual := path.stat().st_size) != size:
            raise ValueError(f"{name} has {actual} bytes instead of {size}")


def check_contents(folder: Path, checksums: Mapping[str, str]) -> None:
    """Compare files with their sha256; ValueError names the first whose contents have changed."""
    for name, expected in checksums.items():
        if sha256(folder / name) != expected:
            raise ValueError(f"the contents of {name} have changed since it was saved (sha256 differs)")
