"""Tests that repeat one another: each commit runs a share of them, and `make test-all` runs all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest


def in_turn(values: Sequence, shares: int) -> list:
    """Parameters for `pytest.mark.parametrize`; those that are not this commit's share are marked `again`."""
    turn = _commit() % shares
    return [pytest.param(v, marks=[] if k % shares == turn else pytest.mark.again) for k, v in enumerate(values)]


def once(values: Iterable[str], key: Callable[[str], str], elsewhere: Iterable[str] = ()) -> list:
    """Parameters of which those are marked `again` whose key an earlier one has, or one of those that are run elsewhere."""
    seen, found = {key(value) for value in elsewhere}, []
    for value in values:
        found.append(pytest.param(value, marks=[pytest.mark.again] if key(value) in seen else []))
        seen.add(key(value))
    return found


def _commit() -> int:
    """The hash of the commit as a number, the same in all processes of a session; 0 outside a repository."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout, 16)
    except (OSError, subprocess.CalledProcessError):
        return 0
