"""The step of one token as compiled code, for small batches, where calls cost more than the arithmetic of a token.

torch.compile makes one program for all layers of a block. Its shapes are fixed: attention looks at the whole cache behind
a mask, and a batch is padded to a round number of rows. So one program serves every token, block and call of a flow's
sizes. Sweeps over several tokens, and batches above LARGEST rows, where the program gains nothing, use plain code. On
CUDA the step is recorded as a CUDA graph instead (`labcore.inverse.graphed`).
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from labcore.hints import first_line
from labcore.inverse.decode import (
    BlockDecoder,
    FoldedLayer,
    KVCache,
    after_attention,
    before_attention,
    outside_autocast,
)
from labcore.nn.embed import rotate

LARGEST = {"cpu": 32, "cuda": 256}
"""Rows (images, twice where they are guided) up to which the program is used, by device: by measurement on two cores of a
Xeon; on CUDA our guess, not measured. Other devices have no programs."""

_WORKS: dict[tuple, bool] = {}  # by the sizes that torch.compile has, as its own programs, for the whole process


class SteppedDecoder(BlockDecoder):
    """A `BlockDecoder` whose single tokens use `step`; if that fails, they use plain code, with one warning."""

    means = "torch.compile"
    """Name of `step` in the warning that it does not work."""

    def new_cache(self, batch: int, tokens: int, like: Tensor) -> KVCache:
        """Return an empty cache, with rows that pad the batch."""
        return super().new_cache(padded(batch) if fits(batch, like.device) else batch, tokens, like)

    @torch.no_grad()
    def next_params(self, u: Tensor, cache: KVCache) -> tuple[Tensor, Tensor]:
        """As `BlockDecoder.next_params`."""
        b, n, _ = u.shape
        rows = padded(b)
        if n > 1 or not fits(b, u.device) or not self.works(cache, rows):
            return super().next_params(u, cache)
        try:
            out = self.step(u[:, 0], cache, rows)[:b, None]
        except Exception as error:  # a change that is not part of the key, or any error of a driver
            self.give_up(cache, rows, error)
            return super().next_params(u, cache)
        cache.length += 1
        return self.block.split_params(out)

    def works(self, cache: KVCache, rows: int) -> bool:
        """Return whether `step` may be called for these sizes."""
        raise NotImplementedError

    def step(self, u: Tensor, cache: KVCache, rows: int) -> Tensor:
        """Return the output of params_out (rows, p) after the token u (b, d)."""
        raise NotImplementedError

    def key(self, cache: KVCache, rows: int) -> tuple:
        """Return everything that a step with this cache is specific to."""
        keys = cache.layers[0][0]
        return sizes(self, rows, keys.shape[2], keys.dtype, keys.device)

    def give_up(self, cache: KVCache, rows: int, error: Exception) -> None:
        """Use plain code for these sizes from now on in this process."""
        _WORKS[self.key(cache, rows)] = False
        warnings.warn(f"{self.means} does not work here ({first_line(error)}); going on without it", stacklevel=3)


class CompiledDecoder(SteppedDecoder):
    """Decoder whose single tokens use one program for the whole block."""

    way = "compiled"

    def works(self, cache: KVCache, rows: int) -> bool:
        """Return whether there is a program for these sizes. The first call compiles it, with a message."""
        key = self.key(cache, rows)
        if key not in _WORKS:
            _WORKS[key] = True
            _try(self, cache, rows)
        return _WORKS[key]

    def step(self, u: Tensor, cache: KVCache, rows: int) -> Tensor:
        """As `SteppedDecoder.step`."""
        position = torch.tensor([cache.length], device=u.device)
        return program()(*arguments(self, cache, rows, fill(u, rows), position))


def fits(rows: int, device: torch.device) -> bool:
    """Return whether this number of rows uses the program on a device."""
    return 0 < rows <= LARGEST.get(device.type, 0)


def padded(rows: int) -> int:
    """Return the next power of two up to 64 rows, the next multiple of 16 above."""
    if rows <= 64:
        return 1 << (rows - 1).bit_length()
    return -(-rows // 16) * 16


def token_step(
    u: Tensor,
    position: Tensor,
    weights: tuple[Tensor, ...],
    condition: Tensor | None,
    temperature: Tensor | None,
    rope: Tensor | None,
    layers: list[FoldedLayer],
    cache: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """Return the output of params_out (rows, p) after the token u (rows, d) at `position` (1,).

    Its keys and values are written to `cache`.
    """
    h = enter(u, position, weights, condition)
    first_layer_keys = cache[0][0]
    seen = torch.arange(first_layer_keys.shape[2], device=u.device) <= position
    rotation = None if rope is None else rope[position]
    for number, layer in enumerate(layers):
        keys, values = cache[number]
        q = remember(layer, h, position, rotation, temperature, keys, values)
        h = after_attention(layer, h, attention(q, keys, values, seen).flatten(1))
    return outside_autocast(h, *weights[2:])


def enter(u: Tensor, position: Tensor, weights: tuple[Tensor, ...], condition: Tensor | None) -> Tensor:
    """Return hidden rows (rows, width) of the token u (rows, d) before the first layer."""
    token_in, token_bias = weights[:2]
    bias = token_bias if len(token_bias) == 1 else token_bias[position]
    h = outside_autocast(u, token_in) + bias
    return h if condition is None else h + condition


def remember(
    layer: FoldedLayer,
    h: Tensor,
    position: Tensor,
    rotation: Tensor | None,
    temperature: Tensor | None,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Return the query (rows, heads, 1, e) of hidden rows; key and value are written to a layer's cache at `position` (1,)."""
    rows, heads, _, e = keys.shape
    q, k, v = (part[:, :, None] for part in before_attention(layer, h).view(rows, 3, heads, e).unbind(1))
    if rotation is not None:
        q, k = rotate(q, rotation), rotate(k, rotation)
    if temperature is not None:
        q = q / temperature
    keys.index_copy_(2, position, k.to(keys.dtype))
    values.index_copy_(2, position, v.to(keys.dtype))
    return q.to(keys.dtype)


def attention(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Attend with one query (rows, heads, 1, e) over a cache (rows, heads, tokens, e), as sums that a CPU compiler fuses."""
    logits = (keys * q).sum(-1) * q.shape[-1] ** -0.5
    shares = logits.masked_fill(~seen, float("-inf")).softmax(-1)
    return (values * shares[..., None]).sum(2)


@functools.cache
def program() -> Callable:
    return torch.compile(token_step, fullgraph=True, dynamic=False)


def arguments(decoder: BlockDecoder, cache: KVCache, rows: int, u: Tensor, position: Tensor) -> tuple:
    """Return all that a step reads, in the order of `token_step`."""
    block, condition, temperature = decoder.block, decoder.condition, decoder.temperature
    weights = (block.token_in.weight, decoder.token_bias, block.params_out.weight, block.params_out.bias)
    if condition is not None and len(condition) > 1:
        condition = fill(condition, rows)
    if temperature is not None:
        temperature = fill(temperature, rows, 1.0)
    return u, position, weights, condition, temperature, decoder.rope, decoder.layers, cache.layers


def fill(x: Tensor, rows: int, value: float = 0.0) -> Tensor:
    """Append rows up to a number; always a new tensor, because a program is specific to strides too."""
    filled = x.new_full((rows, *x.shape[1:]), value)
    filled[: len(x)] = x
    return filled


def sizes(decoder: BlockDecoder, rows: int, tokens: int, dtype: torch.dtype, device: torch.device) -> tuple:
    """Return everything that a step is specific to: sizes, kinds of weights, and the state of torch that kernels depend on."""
    block, layer = decoder.block, decoder.layers[0]
    token_in, out = block.token_in.weight, block.params_out.weight
    shapes = (rows, tokens, decoder.heads, decoder.head_dim, len(decoder.layers), layer.up[0].shape, layer[4:])
    condition = None if decoder.condition is None else len(decoder.condition) == 1
    kind = (condition, decoder.temperature is None, decoder.rope is None, len(decoder.token_bias))
    formats = (dtype, device, token_in.dtype, layer.up[0].dtype, torch.backends.cuda.matmul.fp32_precision)
    state = (
        torch.get_num_threads(),
        torch.is_autocast_enabled(device.type),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )
    return (*shapes, *kind, *formats, token_in.shape, out.shape, *state)


def _try(decoder: SteppedDecoder, cache: KVCache, rows: int) -> None:
    keys = cache.layers[0][0]
    logging.getLogger("labcore").warning(
        "compiling the step of a token: %d layers of width %d, %d rows, %d tokens; some 10 s, once in this process",
        len(decoder.layers),
        decoder.heads * decoder.head_dim,
        rows,
        keys.shape[2],
    )
    position = torch.tensor([cache.length], device=keys.device)
    weight = decoder.block.token_in.weight
    u = weight.new_zeros(rows, weight.shape[1])  # tokens keep the weights' dtype under autocast, the cache does not
    try:
        with torch._dynamo.config.patch(recompile_limit=1024):
            program()(*arguments(decoder, cache, rows, u, position))  # the token that follows writes there again
    except Exception as error:  # any error of a compiler
        decoder.give_up(cache, rows, error)


def has_failed(key: tuple) -> bool:
    """Return whether a step of this key has failed before."""
    return not _WORKS.get(key, True)
