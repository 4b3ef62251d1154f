"""The step of a token as a CUDA graph: its kernels are recorded once and started by one call for each token.

A graph reads and writes the same memory every time. That memory, a `Workspace`, belongs to sizes and not to a flow.
Before a block is solved, its prepared weights, classes and temperatures are copied in. So one recording serves all
blocks, all flows of these sizes, and changed weights. Idle workspaces are kept for later calls
(`labcore.inverse.workspaces`).

Where Triton's kernels run, attention reads what is filled of the cache (`labcore.inverse.triton_step`). Elsewhere, and with
rotary positions, it reads a prefix of the cache behind a mask. There are recordings for at most four lengths of that prefix.

All of this is tested on a CPU with a step that is called instead of recorded, and in tests/gpu.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from labcore.hints import first_line
from labcore.inverse.compiled import (
    SteppedDecoder,
    arguments,
    enter,
    fits,
    has_failed,
    padded,
    remember,
    sizes,
)
from labcore.inverse.decode import KVCache, after_attention, before_attention, computed_in, outside_autocast
from labcore.inverse.recording import Replay, record, stream_of, turn
from labcore.inverse.triton_step import FEW, parts_for, triton_step
from labcore.inverse.workspaces import IDLE
from labcore.kernels import dispatch
from labcore.kernels.attention import without_cudnn

SHORTEST = 64
"""Keys in the shortest prefix that is recorded; our choice."""


def prefixes(tokens: int) -> tuple[int, ...]:
    """Return the recorded lengths of the cache: multiples of a quarter of the tokens, at least 64, and all tokens.

    A quarter is rounded up to a multiple of 8, for which attention with a mask is fastest.
    """
    quarter = max(SHORTEST, -(-tokens // 32) * 8)
    return (*range(quarter, tokens, quarter), tokens)


class Workspace:
    """The memory of a recorded step, and its recordings by length of prefix.

    given: the arguments of `prefix_step`, in this order: the token (rows, d), its position (1,), copies of all weights,
    classes and temperatures, and the cache. A recording knows addresses and keeps nothing alive: all it reads is held here.
    """

    def __init__(self, decoder: SteppedDecoder, cache: KVCache, rows: int):
        keys, weight = cache.layers[0][0], decoder.block.token_in.weight
        self.cache, self.rows, self.failed = cache, rows, False
        self.token = weight.new_zeros(rows, weight.shape[1])
        self.position = torch.zeros(1, dtype=torch.long, device=keys.device)
        _, _, *of_decoder, _ = arguments(decoder, cache, rows, self.token, self.position)
        self.copies = tree_map_only(Tensor, torch.clone, tuple(of_decoder))
        self.given = (self.token, self.position, *self.copies, cache.layers)
        self.by_triton = decoder.rope is None and dispatch.by_triton(keys) and self._runs_triton()
        self.lengths = (keys.shape[2],) if self.by_triton else prefixes(keys.shape[2])
        self.replays: dict[int, Replay] = {}

    def _runs_triton(self) -> bool:
        """Call the step by Triton once; where that fails, there is one warning, and torch's operations are recorded."""
        return dispatch.attempt("token_triton", lambda: triton_program(self.rows)(*self.given)) is not None

    def load(self, decoder: SteppedDecoder) -> None:
        """Copy in the weights, classes and temperatures of a decoder."""
        _, _, *of_decoder, _ = arguments(decoder, self.cache, self.rows, self.token, self.position)
        for copy, source in zip(tree_leaves(self.copies), tree_leaves(of_decoder), strict=True):
            if isinstance(copy, Tensor):
                copy.copy_(source)

    def clear(self) -> None:
        """Empty the cache: NaN of an earlier inverse would pass the mask, because 0 times NaN is NaN."""
        for pair in self.cache.layers:
            for each in pair:
                each.zero_()

    def prefix(self, position: int) -> int:
        """Return the shortest recorded prefix that contains a position."""
        return next(length for length in self.lengths if position < length)

    @functools.cached_property
    def bytes(self) -> int:
        """Memory of weights and cache."""
        return sum(x.numel() * x.element_size() for x in tree_leaves(self.given) if isinstance(x, Tensor))


class GraphedCache(KVCache):
    """The cache of a workspace that nobody else uses as long as this object lives.

    loaded: the decoder whose weights the workspace holds.
    """

    loaded: SteppedDecoder | None = None

    def __init__(self, workspace: Workspace):
        self.workspace, self.layers, self.length = workspace, workspace.cache.layers, 0


class RecordedDecoder(SteppedDecoder):
    """Single tokens go through a recording of the plain step."""

    way, means = "recorded", "recording a CUDA graph"

    @torch.no_grad()
    def new_cache(self, batch: int, tokens: int, like: Tensor) -> KVCache:
        """An empty cache in a workspace; a plain one where nothing is recorded for such sizes."""
        rows, dtype, device = padded(batch), computed_in(like), like.device
        if not fits(batch, device):
            return super().new_cache(batch, tokens, like)
        key = (*self._kind(device), *sizes(self, rows, tokens, dtype, device))
        if has_failed(key):
            return super().new_cache(batch, tokens, like)

        def make() -> Workspace:
            return Workspace(self, super(RecordedDecoder, self).new_cache(batch, tokens, like), rows)

        workspace = IDLE.take(key, make, self._bytes(rows, tokens, dtype), device)
        workspace.clear()
        cache = GraphedCache(workspace)
        IDLE.give_back_after(cache, key, workspace)
        return cache

    def works(self, cache: KVCache, rows: int) -> bool:
        """As `SteppedDecoder.works`: a plain cache is one for which nothing is recorded."""
        return isinstance(cache, GraphedCache) and cache.workspace.rows == rows and not cache.workspace.failed

    def next_params(self, u: Tensor, cache: KVCache) -> tuple[Tensor, Tensor]:
        """As `BlockDecoder.next_params`."""
        with _remembering_no_casts():
            return super().next_params(u, cache)

    def step(self, u: Tensor, cache: GraphedCache, rows: int) -> Tensor:
        """As `SteppedDecoder.step`."""
        work = cache.workspace
        with turn(u.device):
            if cache.loaded is not self:
                work.load(self)
                cache.loaded = self
            work.token[: len(u)] = u
            work.position.fill_(cache.length)
            length = work.prefix(cache.length)
            if length not in work.replays:
                work.replays[length] = self._record(work, length)
            return work.replays[length]().clone()  # the next token is written where this one was

    def key(self, cache: GraphedCache, rows: int) -> tuple:
        """As `SteppedDecoder.key`; workspaces of several streams and classes do not mix."""
        return (*self._kind(cache.layers[0][0].device), *super().key(cache, rows))

    def _kind(self, device: torch.device) -> tuple:
        """Return what tells workspaces of equal sizes apart: class, stream, and whose kernels run."""
        return type(self).__name__, stream_of(device), dispatch.chosen(device)

    def give_up(self, cache: GraphedCache, rows: int, error: Exception) -> None:
        """As `SteppedDecoder.give_up`; the workspace is not used again."""
        cache.workspace.failed = True
        super().give_up(cache, rows, error)

    def _record(self, work: Workspace, length: int) -> Replay:
        if work.by_triton:
            return record(triton_program(work.rows), work.given)
        return record(functools.partial(prefix_step, remember, after_attention, length), work.given)

    def _bytes(self, rows: int, tokens: int, dtype: torch.dtype) -> int:
        """Memory of a workspace, about."""
        weights = sum(x.numel() * x.element_size() for x in tree_leaves(self.layers) if isinstance(x, Tensor))
        return weights + len(self.layers) * 2 * rows * tokens * self.heads * self.head_dim * dtype.itemsize


class GraphedDecoder(RecordedDecoder):
    """A `RecordedDecoder` that compiles the parts of a layer before and after attention, once for all layers.

    Where torch.compile fails, with one warning, the plain step is recorded. Few rows by Triton leave nothing to compile.
    """

    way = "compiled and recorded"

    def _record(self, work: Workspace, length: int) -> Replay:
        if work.by_triton and work.rows <= FEW:
            return super()._record(work, length)  # nothing is left to compile
        if not work.replays and not _BROKEN:
            logging.getLogger("labcore").warning(
                "compiling the parts of a layer: width %d, %d rows, %s; some 10 s, once in this process",
                self.heads * self.head_dim,
                work.rows,
                work.given[-1][0][0].dtype,
            )
        if work.by_triton:
            step = triton_program(work.rows, layer_programs(before_attention))
        else:
            step = functools.partial(prefix_step, *layer_programs(remember), length)
        return record(step, work.given) if compiles(step, work.given) else super()._record(work, length)


def triton_program(rows: int, parts: tuple[Callable, Callable] | None = None) -> Callable[..., Tensor]:
    """Return a step of so many rows by Triton's kernels. parts: of a layer, compiled; default None, as they are."""
    return functools.partial(triton_step, *(parts or parts_for(rows)))


def prefix_step(
    before: Callable[..., Tensor],
    after: Callable[..., Tensor],
    length: int,
    u: Tensor,
    position: Tensor,
    weights: tuple[Tensor, ...],
    condition: Tensor | None,
    temperature: Tensor | None,
    rope: Tensor | None,
    layers: list,
    cache: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """As `compiled.token_step`, where attention reads the first `length` keys alone.

    before, after: `remember` and `after_attention`, or programs of them.
    """
    h = enter(u, position, weights, condition)
    rotation = None if rope is None else rope[position]
    dtype, device = cache[0][0].dtype, u.device
    unseen = torch.arange(length, device=device) > position
    mask = torch.zeros(1, length, dtype=dtype, device=device).masked_fill_(unseen, float("-inf"))
    for layer, (keys, values) in zip(layers, cache, strict=True):
        q = before(layer, h, position, rotation, temperature, keys, values)
        h = after(layer, h, attention(q, keys[:, :, :length], values[:, :, :length], mask))
    return outside_autocast(h, *weights[2:])


def attention(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """One query (rows, heads, 1, e) over keys and values (rows, heads, n, e), with a mask (1, n) to add: (rows, width)."""
    with without_cudnn(q.device):
        return F.scaled_dot_product_attention(q, keys, values, mask, scale=q.shape[-1] ** -0.5).flatten(1)


@functools.cache
def layer_programs(before: Callable) -> tuple[Callable, Callable]:
    """Return `before` and `after_attention`, compiled: torch.compile makes one program of each for every size."""
    return tuple(torch.compile(part, fullgraph=True, dynamic=False) for part in (before, after_attention))


def compiles(step: Callable[..., Tensor], given: tuple) -> bool:
    """Return whether a step with compiled parts runs. The first failure is a warning; after it nothing is compiled here."""
    if _BROKEN:
        return False
    try:
        with torch._dynamo.config.patch(recompile_limit=1024):
            step(*given)  # the token that follows writes there again
    except Exception as error:  # whatever a compiler can meet
        _BROKEN.append(first_line(error))  # not the error: its traceback would keep the workspace in use
        warnings.warn(f"torch.compile does not work here ({first_line(error)}); recording the plain step", stacklevel=2)
    return not _BROKEN


_BROKEN: list[str] = []  # what torch.compile failed with in this process


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
