"""The step of one token as compiled code, for small batches, where a token costs more in calls than in arithmetic.

torch.compile makes one program for all layers of a block. Its shapes stand still: attention looks at the whole cache
behind a mask, and a batch is filled up to a power of two, so that a program serves every token, block and call of a flow's
sizes. Sweeps over several tokens, and batches above LARGEST rows, where it gains nothing, go the plain way. On CUDA the
program's kernels are recorded as well and started by one call (`labcore.inverse.graphed`).
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from labcore.inverse.decode import BlockDecoder, FoldedLayer, KVCache, through
from labcore.nn.embed import rotate

LARGEST = {"cpu": 32, "cuda": 256}
"""Rows (images, twice where they are guided) up to which the program is used, by device: by measurement on two cores of a
Xeon; on CUDA our guess, not measured. Other devices have no programs."""

_WORKS: dict[tuple, bool] = {}  # by the sizes that torch.compile has, as its own programs, for the whole process


class CompiledDecoder(BlockDecoder):
    """A `BlockDecoder` whose single tokens go through the program; where torch.compile fails, with one warning, they do not."""

    def new_cache(self, batch: int, tokens: int, like: Tensor) -> KVCache:
        """An empty cache, with rows to fill the batch up."""
        return super().new_cache(padded(batch) if fits(batch, like.device) else batch, tokens, like)

    @torch.no_grad()
    def next_params(self, u: Tensor, cache: KVCache) -> tuple[Tensor, Tensor]:
        """As `BlockDecoder.next_params`."""
        b, n, _ = u.shape
        rows = padded(b)
        if n > 1 or not fits(b, u.device) or not _works(self, cache, rows):
            return super().next_params(u, cache)
        try:
            out = self.step(u[:, 0], cache, rows)[:b, None]
        except Exception as error:  # something that is no part of the key has changed, and cannot be compiled
            _give_up(_key(self, cache, rows), error)
            return super().next_params(u, cache)
        cache.length += 1
        return self.block.split_params(out)

    def step(self, u: Tensor, cache: KVCache, rows: int) -> Tensor:
        """What the program says (rows, 2d) after the token u (b, d)."""
        position = torch.tensor([cache.length], device=u.device)
        return program()(*arguments(self, cache, rows, fill(u, rows), position))


def fits(rows: int, device: torch.device) -> bool:
    """Whether so many rows go through the program on a device."""
    return 0 < rows <= LARGEST.get(device.type, 0)


def padded(rows: int) -> int:
    """The next power of two."""
    return 1 << (rows - 1).bit_length()


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
    """What params_out says (rows, 2d) after the token u (rows, d) at `position` (1,); its keys and values go into `cache`."""
    token_in, token_bias, out_weight, out_bias = weights
    rows, (_, heads, tokens, e) = len(u), cache[0][0].shape
    h = F.linear(u, token_in) + (token_bias if len(token_bias) == 1 else token_bias[position])
    h = h if condition is None else h + condition
    seen = torch.arange(tokens, device=u.device) <= position
    turn = None if rope is None else rope[position]

    def attend(number: int, qkv: Tensor) -> Tensor:
        q, k, v = (part[:, :, None] for part in qkv.view(rows, 3, heads, e).unbind(1))
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        if temperature is not None:
            q = q / temperature
        keys, values = cache[number]
        keys.index_copy_(2, position, k.to(keys.dtype))
        values.index_copy_(2, position, v.to(keys.dtype))
        return attention(q.to(keys.dtype), keys, values, seen).reshape(rows, heads * e)

    return F.linear(through(layers, h, attend), out_weight, out_bias)


def attention(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """One query (rows, heads, 1, e) over all of a cache (rows, heads, tokens, e): on a CPU as sums that a compiler joins."""
    scale = q.shape[-1] ** -0.5
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, keys, values, seen.expand(1, len(seen)), scale=scale)
    logits = (keys * q).sum(-1) * scale
    shares = logits.masked_fill(~seen, float("-inf")).softmax(-1)
    return (values * shares[..., None]).sum(2)


@functools.cache
def program() -> Callable:
    return torch.compile(token_step, fullgraph=True, dynamic=False)


def arguments(decoder: BlockDecoder, cache: KVCache, rows: int, u: Tensor, position: Tensor) -> tuple:
    block, condition, temperature = decoder.block, decoder.condition, decoder.temperature
    weights = (block.token_in.weight, decoder.token_bias, block.params_out.weight, block.params_out.bias)
    if condition is not None and len(condition) > 1:
        condition = fill(condition, rows)
    if temperature is not None:
        temperature = fill(temperature, rows, 1.0)
    return u, position, weights, condition, temperature, decoder.rope, decoder.layers, cache.layers


def fill(x: Tensor, rows: int, value: float = 0.0) -> Tensor:
    """More rows below, up to so many; always a new tensor, since a program is for strides too."""
    filled = x.new_full((rows, *x.shape[1:]), value)
    filled[: len(x)] = x
    return filled


def _works(decoder: BlockDecoder, cache: KVCache, rows: int) -> bool:
    """Whether there is a program for these sizes; the first time, make it and say so."""
    key = _key(decoder, cache, rows)
    if key not in _WORKS:
        _WORKS[key] = True
        _try(decoder, cache, rows)
    return _WORKS[key]


def _key(decoder: BlockDecoder, cache: KVCache, rows: int) -> tuple:
    """What torch.compile makes a program for: sizes, kinds of weights, and the state of torch that it looks at."""
    block, keys = decoder.block, cache.layers[0][0]
    shared = decoder.condition is not None and len(decoder.condition) == 1
    layer = decoder.layers[0]
    sizes = (rows, tuple(keys.shape), keys.dtype, keys.device, len(decoder.layers), layer.up[0].shape, layer[4:])
    kind = (
        decoder.condition is None,
        shared,
        decoder.temperature is None,
        decoder.rope is None,
        len(decoder.token_bias),
    )
    state = torch.get_num_threads(), torch.is_autocast_enabled(keys.device.type), torch.is_inference_mode_enabled()
    return (*sizes, *kind, block.token_in.weight.shape, block.params_out.weight.shape, *state)


def _try(decoder: BlockDecoder, cache: KVCache, rows: int) -> None:
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
    except Exception as error:  # whatever a compiler can meet
        _give_up(_key(decoder, cache, rows), error)


def _give_up(key: tuple, error: Exception) -> None:
    """From here on these sizes go the plain way."""
    _WORKS[key] = False
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    warnings.warn(f"torch.compile does not work here ({reason}); going on without it", stacklevel=2)
