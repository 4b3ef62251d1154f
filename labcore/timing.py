"""Timing ways of doing the same thing: in turn, medians, spread; a GPU is waited for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """Median seconds, the spread (max - min) / median over the repeats, and the seconds of the very first call."""

    seconds: float
    spread: float
    first: float


def alternate(
    ways: Mapping[str, Callable[[], object]], repeats: int = 5, warmup: int = 1, limit: float = float("inf")
) -> dict[str, Timing]:
    """Run every way once in turn, `repeats` times over, after `warmup` unmeasured rounds: drift hits all alike.

    A way that once takes more than `limit` seconds is not run again; its times are what there is then.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(warmup + repeats):
        for name, way in ways.items():
            if not times[name] or max(times[name][-1:]) <= limit:
                times[name].append(seconds_of(way))
    return {name: _timing(taken, warmup) for name, taken in times.items()}


def seconds_of(way: Callable[[], object]) -> float:
    """Seconds of one call, with all that it started on a GPU."""
    start = _now()
    way()
    return _now() - start


def _timing(taken: list[float], warmup: int) -> Timing:
    measured = taken[warmup:] or taken[-1:]
    median = statistics.median(measured)
    return Timing(median, (max(measured) - min(measured)) / median, taken[0])


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
