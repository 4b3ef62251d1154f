"""Causal self-attention over a whole sequence. Going token by token with a cache is `labcore.inverse.decode`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from labcore.kernels.attention import causal_attention
from labcore.nn.embed import rotate


class CausalSelfAttention(nn.Module):
    """Multi-head attention with biases, scale 1/sqrt(head_dim), output projection."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b t width"],
        rope: Float[Tensor, "t e 2"] | None = None,
        temperature: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t width"]:
        """Each token sees itself and those before it. The logits of image b are divided by temperature[b]."""
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        if temperature is not None:
            q = q / temperature.to(q.dtype)[:, None, None, None]
        mixed = causal_attention(q, k, v, self.head_dim**-0.5)
        return self.out(mixed.transpose(1, 2).reshape(b, t, self.heads * self.head_dim))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, head_dim={self.head_dim}"
