"""A block's parameters token after token, with cached keys and values: the inner loop of every exact inverse.

The same function as `MetaBlock.next_params`, prepared for small pieces: normalisation weights are folded into the linear
layer that follows, the attention scale into the queries, position and class into one bias per token, and the residual sums
into the matrix products. That halves the number of operations, which is what the time goes into at one token a step.

Weights are prepared when a `BlockDecoder` is made, and its cache is another object, so the model itself holds no state.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from labcore.flows.metablock import MetaBlock
from labcore.kernels.attention import causal_attention
from labcore.nn.embed import rotate
from labcore.nn.layer import GeluMlp, TransformerLayer


class KVCache:
    """Keys and values of one block, (layers, 2, b, heads, t, head_dim), filled from the left; `length` tokens are in."""

    def __init__(self, layers: int, batch: int, heads: int, tokens: int, head_dim: int, like: Tensor):
        self.kv = like.new_empty(layers, 2, batch, heads, tokens, head_dim)
        self.length = 0

    def take(self, rows: Int[Tensor, "r"]) -> KVCache:
        """A cache of these sequences alone, with the tokens that are in."""
        layers, _, _, heads, tokens, head_dim = self.kv.shape
        part = KVCache(layers, len(rows), heads, tokens, head_dim, self.kv)
        part.length = self.length
        part.kv[:, :, :, :, : self.length] = self.kv[:, :, rows, :, : self.length]
        return part

    def put(self, rows: Int[Tensor, "r"], part: KVCache, since: int, until: int) -> None:
        """Tokens since ... until - 1 of these sequences as they are in `part`."""
        self.kv[:, :, rows, :, since:until] = part.kv[:, :, :, :, since:until]


class BlockDecoder:
    """One block, its weights prepared for `batch` sequences that share nothing but the class embedding's `condition`.

    condition: (b, width), (1, width) or None. temperature: (b,) divides the attention logits, or None.
    """

    def __init__(
        self,
        block: MetaBlock,
        condition: Float[Tensor, "#b width"] | None,
        temperature: Float[Tensor, "b"] | None = None,
    ):
        self.block, self.heads, self.head_dim = block, block.heads, block.head_dim
        bias = block.token_in.bias if block.position is None else block.own_order(block.position) + block.token_in.bias
        self.token_bias = (
            bias.expand(-1, block.token_in.bias.shape[0]) if bias.ndim > 1 else bias[None]
        )  # (t or 1, width)
        self.condition = condition
        self.rope = None if block.rope is None else block.own_order(block.rope)
        self.temperature = None if temperature is None else temperature[:, None, None, None]
        self.layers = [_Folded(layer) for layer in block.layers]

    def new_cache(self, batch: int, tokens: int, like: Tensor) -> KVCache:
        """An empty cache on the device and in the dtype of `like`."""
        return KVCache(len(self.layers), batch, self.heads, tokens, self.head_dim, like)

    def take(self, rows: Int[Tensor, "r"]) -> BlockDecoder:
        """The same block for these sequences alone."""
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
        """(log_scale, shift) of the tokens that follow each of the n tokens `u`, which follow those in `cache`."""
        b, n, _ = u.shape
        start = cache.length
        bias = self.token_bias[start : start + n] if len(self.token_bias) > 1 else self.token_bias
        h = F.linear(u, self.block.token_in.weight)
        h = h + bias if self.condition is None else h + (bias + self.condition[:, None])
        h = h.reshape(b * n, h.shape[-1])
        rope = None if self.rope is None else self.rope[start : start + n]
        for layer, kv in zip(self.layers, cache.kv, strict=True):
            mixed = self._attend(layer.qkv(h).view(b, n, 3, self.heads, self.head_dim), kv, start, rope)
            h = layer.add_mlp(layer.add_attention(h, mixed))
        cache.length = start + n
        out = self.block.params_out(h)
        return self.block.split_params(out.view(b, n, out.shape[-1]))

    def _attend(
        self, qkv: Float[Tensor, "b n 3 heads e"], kv: Float[Tensor, "2 b heads t e"], start: int, rope: Tensor | None
    ) -> Float[Tensor, "bn width"]:
        """Attention of n new tokens over all; writes their keys and values into the cache."""
        b, n, _, h, e = qkv.shape
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        if self.temperature is not None:
            q = q / self.temperature
        keys, values = kv[:, :, :, : start + n]
        keys[:, :, start:], values[:, :, start:] = k, v
        mixed = causal_attention(q, keys, values, e**-0.5)
        return mixed.transpose(1, 2).reshape(b * n, h * e)


class _Folded:
    """A transformer layer with its normalisation weights folded into the linear layers behind them."""

    def __init__(self, layer: TransformerLayer):
        self.width = layer.attention.out.out_features
        self.centred = isinstance(layer.attention_norm, nn.LayerNorm)
        self.eps = layer.attention_norm.eps
        self.qkv_weight, self.qkv_bias = _fold(layer.attention_norm, layer.attention.qkv)
        self.up_weight, self.up_bias = _fold(layer.mlp_norm, layer.mlp.up)
        self.out, self.down = layer.attention.out, layer.mlp.down
        self.gelu = isinstance(layer.mlp, GeluMlp)

    def normalise(self, h: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        shape = (self.width,)
        return F.layer_norm(h, shape, eps=self.eps) if self.centred else F.rms_norm(h, shape, eps=self.eps)

    def qkv(self, h: Float[Tensor, "n width"]) -> Float[Tensor, "n qkv"]:
        return F.linear(self.normalise(h), self.qkv_weight, self.qkv_bias)

    def add_attention(self, h: Float[Tensor, "n width"], mixed: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        return torch.addmm(h, mixed, self.out.weight.t()).add_(self.out.bias)

    def add_mlp(self, h: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        up = F.linear(self.normalise(h), self.up_weight, self.up_bias)
        if self.gelu:
            hidden = F.gelu(up)
        else:
            gate, value = up.chunk(2, dim=-1)
            hidden = F.silu(gate) * value
        return torch.addmm(h, hidden, self.down.weight.t()).add_(self.down.bias)


def _fold(norm: nn.Module, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of `linear(norm(x))` as a linear layer on the normalised x."""
    bias = linear.bias
    if getattr(norm, "bias", None) is not None:
        bias = torch.addmv(bias, linear.weight, norm.bias)
    return linear.weight * norm.weight, bias
