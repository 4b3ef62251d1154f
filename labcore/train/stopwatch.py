"""Seconds of the parts of a step, without waiting for a GPU: there, the values are those of the previous step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Stopwatch:
    """Timer of named parts; `start` begins a new step."""

    def __init__(self):
        self._device = torch.device("cpu")
        self._seconds: dict[str, float] = {}
        self._events: dict[str, tuple[torch.Event, torch.Event]] = {}

    def start(self, device: torch.device) -> None:
        """Begin a step on `device`. On a GPU, read the times of the previous step."""
        self._device, self._seconds = device, {}
        for name, (begin, end) in self._events.items():
            end.synchronize()
            self._seconds[name] = begin.elapsed_time(end) / 1000
        self._events = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the code inside."""
        if self._device.type == "cpu":
            begin = time.perf_counter()
            yield
            self._seconds[name] = time.perf_counter() - begin
            return
        events = tuple(torch.Event(self._device.type, enable_timing=True) for _ in range(2))
        events[0].record()
        yield
        events[1].record()
        self._events[name] = events

    def seconds(self) -> dict[str, float]:
        """Return part -> seconds; on a GPU those of the previous step, and empty at first."""
        return dict(self._seconds)
