"""Committed records: their paths, a line on how one was made, and whether a target is reached. Needs the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labcore.jsonfile import read_object

CHECKOUT = Path(__file__).parent.parent.parent
BENCHMARKS = CHECKOUT / "benchmarks" / "results"
CPU = "x86-64-cpu--2-threads"
"""The machine whose records the pages show, as in the names of the files."""


def benchmark(part: str) -> dict[str, Any]:
    """Read the committed record of a part of `make bench`. Raises ValueError if there is none, or if it is damaged."""
    return read_object(BENCHMARKS / f"{part}-{CPU}.json", f"make it with `make bench BENCH='--only {part} --save'`")


def made_with(part: str) -> str:
    """Say which record the numbers are from, and how it was made: a link, the device, torch and the git revision."""
    record = benchmark(part)
    link = f"[{part}](../benchmarks/results/{part}-{CPU}.json)"
    return f"Record: {link}; {record['device']}, torch {record['torch']}, revision {record['revision']}."


def target(value: int | float, wanted: int | float | None, at_most: bool = False, unit: str = "") -> str:
    """Say a target and whether a measured value reaches it; "-" without a target."""
    if wanted is None:
        return "-"
    reached = value <= wanted if at_most else value >= wanted
    named = f"{wanted:g} {unit}".rstrip()
    return f"{'at most ' if at_most else ''}{named}: {'reached' if reached else 'missed'}"
