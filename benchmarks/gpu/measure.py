"""Timing within a budget: medians of repeats in turn, their spread, the peak of memory, and kernels without their launches."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from labcore.memory import peak_of
from labcore.timing import seconds_of

LEAST, MOST = 2, 15
"""Repeats after the first call, whatever the budget is; our choice."""
SLOW = 4.0
"""Seconds of a first call after which a way beside ours is not called again: what it loads is a small part; our choice."""


class Measured(NamedTuple):
    """Median seconds of n calls, their spread (interquartile range / median), seconds of the first call, peak of memory.

    peak_bytes: of all that is allocated on the device during a call; on a CPU beyond what the process held before; None where
    that is not known. First calls compile and tune, and are not among the n.
    """

    seconds: float
    spread: float
    n: int
    first_s: float | None = None
    peak_bytes: int | None = None

    reason = None


class Failed(NamedTuple):
    """Why a way beside ours was not measured."""

    reason: str


def in_turn(
    ways: Mapping[str, Callable[[], object]], budget: float, least: int = LEAST, most: int = MOST
) -> dict[str, Measured | Failed]:
    """Call every way once, then all in turn: `least` rounds, and up to `most` while a further one fits the budget in seconds.

    The first way is ours, and its errors are raised; another one that fails becomes `Failed`. With `least` 0 the first call
    is all that is measured where no round fits. Of another way that takes more than SLOW seconds it always is.
    """
    found: dict[str, Measured | Failed] = {}
    first: dict[str, float] = {}
    peaks: dict[str, int | None] = {}
    for name, way in ways.items():
        try:
            first[name], peaks[name] = _first_call(way)
        except Exception as error:
            if name == next(iter(ways)):
                raise
            found[name] = Failed(reason_of(error))
            free_memory()
    ours = next(iter(ways))
    times: dict[str, list[float]] = {name: [] for name in first if name == ours or first[name] <= SLOW}
    spent = sum(first.values())
    while _goes_on(times, spent, budget, least, most):
        for name, taken in times.items():
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            taken.append(seconds_of(ways[name]))
            spent += taken[-1]
            if torch.cuda.is_available():
                peaks[name] = torch.cuda.max_memory_allocated()
    for name in first:
        found[name] = Measured(*summary(times.get(name) or [first[name]]), first[name], peaks[name])
    return {name: found[name] for name in ways}


def one(way: Callable[[], object], budget: float, least: int = LEAST, most: int = MOST) -> Measured:
    """`in_turn` of one way."""
    return in_turn({"ours": way}, budget, least, most)["ours"]


def summary(times: Sequence[float]) -> tuple[float, float, int]:
    """Median, interquartile range / median, and number."""
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else (0.0, 0.0, 0.0)
    return median, (high - low) / median if median else 0.0, len(times)


def kernel(call: Callable[..., Any], sets: Sequence[tuple], budget: float, calls: int = 100) -> Measured:
    """Seconds of one call on a GPU without the time of launching it: `calls` of them are recorded as one CUDA graph.

    sets: arguments that the calls take in turn, so that none finds its data in the cache of another.
    """

    def every() -> None:
        for number in range(calls):
            call(*sets[number % len(sets)])

    found = one(_recorded(every) if torch.cuda.is_available() else every, budget)
    return found._replace(seconds=found.seconds / calls, first_s=None)


def reason_of(error: BaseException) -> str:
    """The error's name and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def free_memory() -> None:
    """Give back what nobody holds to the device, such as the activations of a way that failed."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _goes_on(times: dict[str, list[float]], spent: float, budget: float, least: int, most: int) -> bool:
    done = min(map(len, times.values()))
    if done < least:
        return True
    if done == 0:
        return 2 * spent <= budget
    return done < most and spent + sum(taken[-1] for taken in times.values()) <= budget


def _first_call(way: Callable[[], object]) -> tuple[float, int | None]:
    taken: list[float] = []
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return seconds_of(way), torch.cuda.max_memory_allocated()
    peak = peak_of(lambda: taken.append(seconds_of(way)))
    return (taken[0], peak) if taken else (seconds_of(way), None)


def _recorded(work: Callable[[], None]) -> Callable[[], None]:
    """The work as one CUDA graph, which is replayed."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
        work()
    return graph.replay
