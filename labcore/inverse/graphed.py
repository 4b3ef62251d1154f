"""The compiled step of a token as a CUDA graph: its kernels are recorded at a block's first token and started by one call each.

A graph reads and writes the same memory every time, so token and position have buffers that belong to the cache. What is
copied and when is tested on a CPU, with a step that is called instead of recorded; no GPU has run this yet.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labcore.inverse.compiled import CompiledDecoder, arguments, fill, program
from labcore.inverse.decode import KVCache

WARM_UP = 3
"""Calls before a recording, so that nothing is compiled or tuned while it lasts."""


class GraphedCache(KVCache):
    """A cache with the buffers of a recorded step: the token (rows, d), its position (1,), and what starts it."""

    replay: Callable[[], Tensor] | None = None
    token: Tensor
    position: Tensor


class GraphedDecoder(CompiledDecoder):
    """A `CompiledDecoder` on CUDA; where a step cannot be recorded, with one warning, tokens go the plain way."""

    cache_class = GraphedCache

    def step(self, u: Tensor, cache: GraphedCache, rows: int) -> Tensor:
        """As `CompiledDecoder.step`."""
        if cache.replay is None:
            cache.token, cache.position = fill(u, rows), torch.tensor([cache.length], device=u.device)
            given = arguments(self, cache, rows, cache.token, cache.position)
            cache.replay = record(lambda: program()(*given))
        cache.token[: len(u)] = u
        cache.position.fill_(cache.length)
        return cache.replay().clone()  # the next token is written where this one was


def record(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """What carries `step` out again on the memory of its first time, by one call; the result is always the same tensor.

    Casts of autocast are part of the recording: weights that it remembers would be gone when autocast ends.
    """
    remembers = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()
    finally:
        torch.set_autocast_cache_enabled(remembers)

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay
