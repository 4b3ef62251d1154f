"""A block's parameters token after token, with cached keys and values: the inner loop of every exact inverse.

It computes the same function as `MetaBlock.next_params`, prepared for small pieces: normalisation weights are folded into
the linear layer that follows, the attention scale into the queries, position and class into one bias per token, and the
residual sums into the matrix products. That halves the number of operations, which dominates the time at one token per
step.

Weights are prepared when a `BlockDecoder` is made, and its cache is a separate object, so the model itself holds no
state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from labcore.flows.metablock import MetaBlock
from labcore.kernels.attention import causal_attention
from labcore.nn.embed import rotate
from labcore.nn.layer import GeluMlp, TransformerLayer


class KVCache:
    """Keys and values of a block's layers, (b, heads, t, head_dim) each, filled from the left; `length` tokens are in."""

    def __init__(self, layers: int, shape: tuple[int, int, int, int], like: Tensor):
        self.layers = [(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(layers)]
        self.length = 0

    def copy_from(self, rows: Int[Tensor, " r"], other: KVCache) -> None:
        """Copy the first sequences to sequences `rows` of another cache, as far as that is filled."""
        self.length = other.length
        for own, source in self._paired_with(other):
            own[: len(rows), :, : self.length] = source[rows, :, : self.length]

    def put(self, rows: Int[Tensor, " r"], part: KVCache, since: int, until: int) -> None:
        """Copy tokens since ... until - 1 of sequences `rows` from the first ones of `part`."""
        for own, source in self._paired_with(part):
            own[rows, :, since:until] = source[: len(rows), :, since:until]

    def _paired_with(self, other: KVCache) -> list[tuple[Tensor, Tensor]]:
        """Return pairs of this cache's tensors and those of another cache: keys and values of the first layer, and so on."""
        pairs = []
        for (keys, values), (other_keys, other_values) in zip(self.layers, other.layers, strict=True):
            pairs += [(keys, other_keys), (values, other_values)]
        return pairs


class BlockDecoder:
    """One block, its weights prepared for `batch` sequences that share nothing but the class embedding's `condition`.

    condition: (b, width), (1, width) or None. temperature: (b,) divides the attention logits, or None.
    """

    way = "plain"
    """Name of the way in which single tokens are computed, for records, because each way rounds differently."""

    def __init__(
        self,
        block: MetaBlock,
        condition: Float[Tensor, "#b width"] | None,
        temperature: Float[Tensor, " b"] | None = None,
    ):
        self.block, self.heads, self.head_dim = block, block.heads, block.head_dim
        bias = block.token_in.bias
        if block.position is not None:
            bias = block.own_order(block.position) + bias
        self.token_bias = bias if bias.ndim > 1 else bias[None]  # (t or 1, width)
        self.condition = condition
        self.rope = None if block.rope is None else block.own_order(block.rope)
        self.temperature = None if temperature is None else temperature[:, None, None, None]
        self.layers = [_cast(fold(layer), computed_in(bias)) for layer in block.layers]

    def new_cache(self, batch: int, tokens: int, like: Tensor) -> KVCache:
        """Return an empty cache on the device of `like`, in the dtype of the computation."""
        shape = (batch, self.heads, tokens, self.head_dim)
        return KVCache(len(self.layers), shape, like.new_empty(0, dtype=computed_in(like)))

    def take(self, rows: Int[Tensor, " r"]) -> BlockDecoder:
        """Return the same block for these sequences alone."""
        part = copy.copy(self)
        if self.condition is not None and len(self.condition) > 1:
            part.condition = self.condition[rows]
        if self.temperature is not None:
            part.temperature = self.temperature[rows]
        return part

    @torch.no_grad()
    def next_params(
        self, u: Float[Tensor, "b n d"], cache: KVCache
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n d"]]:
        """Return (log_scale, shift) of the tokens that follow each of the n tokens `u`, which follow those in `cache`."""
        b, n, _ = u.shape
        start, end = cache.length, cache.length + n
        bias = self.token_bias[start:end] if len(self.token_bias) > 1 else self.token_bias
        h = outside_autocast(u, self.block.token_in.weight)
        h = h + bias if self.condition is None else h + (bias + self.condition[:, None])
        rope = None if self.rope is None else self.rope[start:end]

        def attend(number: int, qkv: Tensor) -> Tensor:
            q, k, v = qkv.view(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
            if rope is not None:
                q, k = rotate(q, rope), rotate(k, rope)
            if self.temperature is not None:
                q = q / self.temperature
            cached_keys, cached_values = cache.layers[number]
            keys, values = cached_keys[:b, :, :end], cached_values[:b, :, :end]
            keys[:, :, start:], values[:, :, start:] = k, v
            mixed = causal_attention(q.to(keys.dtype), keys, values, self.head_dim**-0.5)
            return mixed.transpose(1, 2).reshape(b * n, self.heads * self.head_dim)

        h = through(self.layers, h.reshape(b * n, h.shape[-1]), attend)
        out = outside_autocast(h, self.block.params_out.weight, self.block.params_out.bias)
        cache.length = end
        return self.block.split_params(out.view(b, n, out.shape[-1]))


def computed_in(like: Tensor) -> torch.dtype:
    """Return autocast's dtype for float32, if it is on: weights and cache are cast to it once, not at every token."""
    kind = like.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast and like.dtype == torch.float32 else like.dtype


class FoldedLayer(NamedTuple):
    """A transformer layer with its normalisation weights folded into the linear layers behind them."""

    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    eps: float
    centred: bool  # LayerNorm, not RMSNorm
    gelu: bool  # not SwiGLU


def fold(layer: TransformerLayer) -> FoldedLayer:
    """Return the layer's weights and biases, prepared."""
    return FoldedLayer(
        _fold(layer.attention_norm, layer.attention.qkv),
        (layer.attention.out.weight, layer.attention.out.bias),
        _fold(layer.mlp_norm, layer.mlp.up),
        (layer.mlp.down.weight, layer.mlp.down.bias),
        layer.attention_norm.eps,
        isinstance(layer.attention_norm, nn.LayerNorm),
        isinstance(layer.mlp, GeluMlp),
    )


def _cast(layer: FoldedLayer, dtype: torch.dtype) -> FoldedLayer:
    linears = {}
    for name in ("qkv", "out", "up", "down"):
        weight, bias = getattr(layer, name)
        linears[name] = weight.to(dtype), bias.to(dtype)
    return layer._replace(**linears)


def through(layers: list[FoldedLayer], h: Tensor, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Apply all layers to hidden rows (n, width); attend(number, qkv) mixes queries, keys and values (n, 3 x width)."""
    for number, layer in enumerate(layers):
        h = after_attention(layer, h, attend(number, before_attention(layer, h)))
    return h


def before_attention(layer: FoldedLayer, h: Tensor) -> Tensor:
    """Return queries, keys and values (n, 3 x width) of hidden rows (n, width)."""
    return F.linear(_normalised(layer, h), *layer.qkv)


def after_attention(layer: FoldedLayer, h: Tensor, mixed: Tensor) -> Tensor:
    """Return hidden rows after the layer (n, width), from those before it and the output of attention."""
    h = _added(h, mixed, *layer.out)
    up = F.linear(_normalised(layer, h), *layer.up)
    if layer.gelu:
        up = F.gelu(up)
    else:
        gate, value = up.chunk(2, dim=-1)
        up = F.silu(gate) * value
    return _added(h, up, *layer.down)


def outside_autocast(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer to `h` in the number format of the weights, even under autocast.

    The first and the last layer of a block are small, and their rounding errors reach the tokens directly; log_scale even
    through exp. On the shipped flow the error of the bfloat16 inverse is 5.6e-3 RMS this way, with the residual sum in
    float32 too, and 9.2e-3 with everything in bfloat16 (64 test images, CPU).
    """
    if computed_in(weight) == weight.dtype:
        return F.linear(h, weight, bias)
    with torch.autocast(h.device.type, enabled=False):
        return F.linear(h.to(weight.dtype), weight, bias)


def _added(h: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return h plus x through a linear layer; the sum is in h's number format, which autocast leaves at float32."""
    if h.dtype == weight.dtype:
        return torch.addmm(h, x, weight.t()).add_(bias)
    return h + F.linear(x, weight, bias)


def _normalised(layer: FoldedLayer, h: Tensor) -> Tensor:
    norm = F.layer_norm if layer.centred else F.rms_norm
    return norm(h, h.shape[-1:], eps=layer.eps)


def _fold(norm: nn.Module, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return weight and bias of `linear(norm(x))` as a linear layer on the normalised x."""
    bias = linear.bias
    if getattr(norm, "bias", None) is not None:
        bias = torch.addmv(bias, linear.weight, norm.bias)
    return linear.weight * norm.weight, bias
