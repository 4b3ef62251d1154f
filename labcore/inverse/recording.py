"""Recording of a call's kernels as a CUDA graph, while the process does other work."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""Calls before a recording, so that nothing is compiled or tuned while it lasts."""

Replay = Callable[[], Tensor]


def record(step: Callable[..., Tensor], given: tuple) -> Replay:
    """Return a function that repeats step(*given) on the same memory with one call. Its result is always the same tensor.

    given: the first tensor determines the device. All tensors must stay alive as long as the recording is used. Other
    threads may continue meanwhile, unless they draw from the device's default generator: torch refuses that (RuntimeError in
    that thread) while anything is recorded. The lab draws from generators of its own.
    """
    device = given[0].device
    place = _place(device.index)
    with torch.cuda.device(device):
        here = torch.cuda.current_stream()
        place.stream.wait_stream(here)
        with torch.cuda.stream(place.stream):
            for _ in range(WARM_UP):
                step(*given)
            graph, out = place.capture(step, given)
        here.wait_stream(place.stream)

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


class _Place:
    """Resources that recordings on a device have in common: one side stream, one memory pool, and one turn at a time.

    Recordings reuse each other's memory, so two may never run at once: in the order of turns, each waits for the stream of the
    previous one.
    """

    def __init__(self, index: int):
        self.stream, self.pool, self.first = torch.cuda.Stream(index), None, None
        self.lock, self.last = threading.RLock(), None

    def capture(self, step: Callable[..., Tensor], given: tuple) -> tuple[Any, Tensor]:
        """Return the graph of one call, and its output.

        A pool ends with its last graph, and its handle may not be used again then. So a pool gets a graph that stays.
        """
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
            self.first = self._capture(torch.zeros_like, given[:1])
        return self._capture(step, given)

    def _capture(self, step: Callable[..., Tensor], given: tuple) -> tuple[Any, Tensor]:
        """Without torch.cuda.graph, which waits for the device and empties caches."""
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(self.pool, capture_error_mode="thread_local")
        try:
            out = step(*given)
        except BaseException:
            self.pool = None  # a pool whose recording failed may count as in use: the next recording gets another
            with contextlib.suppress(RuntimeError):  # the recording is invalid, and the error above says why
                graph.capture_end()
            raise
        graph.capture_end()
        return graph, out


def _place(index: int) -> _Place:
    with _LOCK:
        if index not in _PLACES:
            _PLACES[index] = _Place(index)
        return _PLACES[index]


_PLACES: dict[int, _Place] = {}  # by the number of the device
_LOCK = threading.Lock()


@contextlib.contextmanager
def turn(device: torch.device) -> Iterator[None]:
    """Hold the right to record and to replay on a device; a turn of another stream waits for the previous one on the device."""
    if device.type != "cuda":
        yield
        return
    place = _place(device.index)
    with place.lock:
        here = torch.cuda.current_stream(device)
        if place.last is not None and place.last != here:
            here.wait_stream(place.last)
        place.last = here
        yield


def stream_of(device: torch.device) -> int:
    """Return the number of the current stream: memory of a workspace is bound to it."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
