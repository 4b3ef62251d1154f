"""Tests that repeat one another: each commit runs a share of them, and `make test-all` runs all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import pytest


def in_turn(values: Sequence, shares: int) -> list:
    """Parameters for `pytest.mark.parametrize`; those that are not this commit's share are marked `again`."""
    return unless(values, [value for value in values if value not in share(values, shares)])


def share(values: Sequence, shares: int) -> list:
    """This commit's share of the values."""
    turn = _commit() % shares
    return [value for k, value in enumerate(values) if k % shares == turn]


def unless(values: Iterable, elsewhere: Collection) -> list:
    """Parameters of which those are marked `again` that are run elsewhere."""
    return [pytest.param(value, marks=[pytest.mark.again] if value in elsewhere else []) for value in values]


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
