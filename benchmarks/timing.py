"""Timing two or more ways of doing the same thing: alternating, medians, spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Timing(NamedTuple):
    """Median seconds, and the spread (max - min) / median over the repeats."""

    seconds: float
    spread: float


def alternate(ways: dict[str, Callable[[], object]], repeats: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """Run every way once in turn, `repeats` times over, after `warmup` unmeasured rounds: drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warmup + repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: Timing(m := statistics.median(ts), (max(ts) - min(ts)) / m) for name, ts in times.items()}
