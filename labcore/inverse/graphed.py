"""The compiled step of a token as a CUDA graph: its kernels are recorded at a block's first token and started by one call each.

A graph reads and writes the same memory every time, so token and position have buffers that belong to the cache. What is
copied and when is tested on a CPU, with a step that is called instead of recorded; no GPU has run this yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from labcore.inverse.compiled import CompiledDecoder, arguments, fill, program
from labcore.inverse.decode import KVCache

WARM_UP = 3
"""Calls before a recording, so that nothing is compiled or tuned while it lasts."""


class GraphedCache(KVCache):
    """A cache with the buffers of a recorded step: the token (rows, d), its position (1,), all that it reads, and its start.

    A recording knows addresses and keeps nothing alive: what it reads must be held here.
    """

    replay: Callable[[], Tensor] | None = None
    token: Tensor
    position: Tensor
    given: tuple


class GraphedDecoder(CompiledDecoder):
    """A `CompiledDecoder` on CUDA; where a step cannot be recorded, with one warning, tokens go the plain way."""

    cache_class = GraphedCache

    def next_params(self, u: Tensor, cache: GraphedCache) -> tuple[Tensor, Tensor]:
        """As `CompiledDecoder.next_params`."""
        with _remembering_no_casts():
            return super().next_params(u, cache)

    def step(self, u: Tensor, cache: GraphedCache, rows: int) -> Tensor:
        """As `CompiledDecoder.step`."""
        if cache.replay is None:
            cache.token, cache.position = fill(u, rows), torch.tensor([cache.length], device=u.device)
            cache.given = arguments(self, cache, rows, cache.token, cache.position)
            cache.replay = record(program(), cache.given)
        cache.token[: len(u)] = u
        cache.position.fill_(cache.length)
        return cache.replay().clone()  # the next token is written where this one was


def record(step: Callable[..., Tensor], given: tuple) -> Callable[[], Tensor]:
    """What carries step(*given) out again on the same memory, by one call; the result is always the same tensor.

    given: its first tensor says the device. They have to stay alive for as long as the recording is used.
    """
    device = given[0].device
    with torch.cuda.device(device):
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                step(*given)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=beside):
            out = step(*given)

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


@contextlib.contextmanager
def _remembering_no_casts() -> Iterator[None]:
    """Without autocast's memory of weights that it has cast: a recording would read what is gone when autocast ends.

    While a program is compiled too: torch.compile makes another one for each state of this switch.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
