"""Causal self-attention over a whole sequence. `labcore.inverse.decode` has the version with a cache, token by token."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from labcore.kernels.attention import causal_attention
from labcore.nn.embed import rotate


class CausalSelfAttention(nn.Module):
    """Causal multi-head attention with biases, scale 1/sqrt(head_dim) and an output projection.

    width: values of a token, a multiple of head_dim. head_dim: width of a head.
    """

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
        """Mix each token (b, t, width) with itself and the tokens before it.

        rope: table of `labcore.nn.embed.rope_table`; default None, no rotary positions. temperature: (b,), divides the logits
        of each image; default None, 1.
        """
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
