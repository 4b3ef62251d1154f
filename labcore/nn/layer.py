"""The residual transformer layer: x + attention(norm(x)), then x + mlp(norm(x)).

The defaults are those of ml-tarflow: affine LayerNorm, biases, exact GELU, expansion 4, no dropout. RMSNorm and SwiGLU are the
options of FlowBack's and BiFlow's later models; SwiGLU has 2/3 of the hidden width, which gives equally many parameters.
"""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from labcore.nn.attention import CausalSelfAttention


def make_norm(kind: Literal["layernorm", "rmsnorm"], width: int) -> nn.Module:
    """Make a normalisation over the last axis, with weights: LayerNorm (eps 1e-5) or RMSNorm (eps 1e-6)."""
    return nn.LayerNorm(width) if kind == "layernorm" else RMSNorm(width, eps=1e-6)


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """Return a context without autocast, for results that must not be rounded to 16 bits; x gives the device."""
    kind = x.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else contextlib.nullcontext()


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm, computed in the number format of its weight.

    Under autocast, the input may be bfloat16 while the weight is float32. torch has no fused kernel for two formats, and
    warns. Computing in float32 rounds once less than rounding the weight.
    """

    def forward(self, x: Float[Tensor, "*b width"]) -> Float[Tensor, "*b width"]:
        return super().forward(x.to(self.weight.dtype))


class GeluMlp(nn.Module):
    """MLP on each token: Linear, exact GELU, Linear, with hidden width `ratio` x width."""

    def __init__(self, width: int, ratio: float):
        super().__init__()
        hidden = round(width * ratio)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*b width"]) -> Float[Tensor, "*b width"]:
        return self.down(F.gelu(self.up(x)))


class SwiGluMlp(nn.Module):
    """SwiGLU MLP on each token: (silu(W x) * V x), projected back to width (arXiv 2002.05202).

    The hidden width is 2/3 of `ratio` x width, rounded up to a multiple of 8.
    """

    def __init__(self, width: int, ratio: float):
        super().__init__()
        hidden = 8 * round(
            width * ratio * 2 / 3 / 8 + 0.499
        )  # + 0.499 rounds up, and ignores rounding errors of the division
        self.up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*b width"]) -> Float[Tensor, "*b width"]:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class TransformerLayer(nn.Module):
    """Pre-norm attention and MLP with residual sums. Alignment calls the output (b, t, width) the hidden of this layer."""

    def __init__(self, width: int, head_dim: int, norm: str, mlp: str, mlp_ratio: float):
        super().__init__()
        self.attention_norm = make_norm(norm, width)
        self.attention = CausalSelfAttention(width, head_dim)
        self.mlp_norm = make_norm(norm, width)
        self.mlp = (GeluMlp if mlp == "gelu" else SwiGluMlp)(width, mlp_ratio)

    def forward(
        self,
        x: Float[Tensor, "b t width"],
        rope: Float[Tensor, "t e 2"] | None = None,
        temperature: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t width"]:
        x = x + self.attention(self.attention_norm(x), rope, temperature)
        return x + self.mlp(self.mlp_norm(x))
