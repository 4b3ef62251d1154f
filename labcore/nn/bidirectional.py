"""The bidirectional transformer layer of the student: RMSNorm, QK-norm, RoPE, SwiGLU, and gates that start at 0.

BiFlow (arXiv 2512.10953) only says "modern components"; these are the components of the same group's later models.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labcore.kernels.attention import full_attention
from labcore.nn.embed import rotate
from labcore.nn.layer import SwiGluMlp, make_norm


class SelfAttention(nn.Module):
    """Multi-head attention between all tokens, without biases; queries and keys are normalised before they are rotated."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm, self.key_norm = make_norm("rmsnorm", head_dim), make_norm("rmsnorm", head_dim)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "b n width"], rope: Float[Tensor, "n e 2"]) -> Float[Tensor, "b n width"]:
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.query_norm(q), rope), rotate(self.key_norm(k), rope)
        mixed = full_attention(q.to(v.dtype), k.to(v.dtype), v, self.head_dim**-0.5)
        return self.out(mixed.transpose(1, 2).reshape(b, n, width))


class BidirectionalLayer(nn.Module):
    """Residual layer: x + gate * attention(norm(x)), then x + gate * mlp(norm(x)), with one gate per channel."""

    def __init__(self, width: int, head_dim: int, mlp_ratio: float):
        super().__init__()
        self.attention_norm, self.mlp_norm = make_norm("rmsnorm", width), make_norm("rmsnorm", width)
        self.attention, self.mlp = SelfAttention(width, head_dim), SwiGluMlp(width, mlp_ratio)
        self.attention_gate, self.mlp_gate = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "b n width"], rope: Float[Tensor, "n e 2"]) -> Float[Tensor, "b n width"]:
        x = x + self.attention_gate * self.attention(self.attention_norm(x), rope)
        return x + self.mlp_gate * self.mlp(self.mlp_norm(x))
