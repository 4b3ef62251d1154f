"""Timing of several ways to compute the same result: in turn, with median and spread; waits for a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """Median seconds, and the spread (max - min) / median over the repeats."""

    seconds: float
    spread: float


def alternate(ways: Mapping[str, Callable[[], object]], repeats: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """Run every way once in turn, `repeats` times over, after `warmup` unmeasured rounds: drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warmup + repeats):
        for name, way in ways.items():
            taken = seconds_of(way)
            if number >= warmup:
                times[name].append(taken)
    return {name: Timing(m := statistics.median(ts), (max(ts) - min(ts)) / m) for name, ts in times.items()}


def seconds_of(way: Callable[[], object]) -> float:
    """Return the seconds of one call, including its work on a GPU."""
    start = _now()
    way()
    return _now() - start


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.synchronize(device)
    return time.perf_counter()
