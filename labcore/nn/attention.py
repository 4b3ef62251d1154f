"""Causal self-attention, and the cache of keys and values that lets it go token by token.

The cache is an argument, never state of a module: a model that fails midway is left as it was, and two inverses can run on
the same model at once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labcore.kernels.attention import causal_attention
from labcore.nn.embed import rotate


class KVCache:
    """Keys and values of one block: preallocated (layers, b, heads, t, head_dim) each, filled from the left.

    `length` tokens are filled; `advance(n)` says that every layer has written n more.
    """

    def __init__(self, layers: int, batch: int, heads: int, tokens: int, head_dim: int, like: Tensor):
        self.keys = like.new_empty(layers, batch, heads, tokens, head_dim)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def put(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write n keys and values (b, heads, n, head_dim) of one layer; returns all length + n of them."""
        end = self.length + k.shape[-2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, n: int) -> None:
        self.length += n


class CausalSelfAttention(nn.Module):
    """Multi-head attention with biases, scale 1/sqrt(head_dim), output projection."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        rope: Float[Tensor, "n e 2"] | None = None,
        temperature: Float[Tensor, "b"] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "b n width"]:
        """n tokens, after those that `cache` holds. The logits of image b are divided by temperature[b]."""
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        if temperature is not None:
            q = q / temperature.to(q.dtype)[:, None, None, None]
        if cache is not None:
            k, v = cache.put(layer, k, v)
        mixed = causal_attention(q, k, v, self.head_dim**-0.5)
        return self.out(mixed.transpose(1, 2).reshape(b, n, -1))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, head_dim={self.head_dim}"
