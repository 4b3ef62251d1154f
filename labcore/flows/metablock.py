"""One autoregressive block of a TARFlow (arXiv 2412.06329; FlowBack eq. 2).

A causal transformer reads the tokens in the block's own order (raster, or reversed) and gives each token the affine
parameters that depend on the tokens before it:

    z_i = (x_i - shift_i(x_<i)) exp(-log_scale_i(x_<i)),   z_0 = x_0,   log |det| = -sum log_scale

All inputs and outputs are in raster order; only `next_params` works in the block's own order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from labcore.config import TarFlowConfig
from labcore.kernels.affine import affine_forward
from labcore.nn.embed import ClassEmbedding, rope_table, small_normal
from labcore.nn.layer import TransformerLayer, without_autocast

Labels = Int[Tensor, " b"] | Float[Tensor, "b k"] | None
"""Class labels (NULL = -1 is "no class"), rows of class probabilities, or None: no class for the whole batch."""


class BlockOutput(NamedTuple):
    """Output of a block, in raster order.

    Attributes:
        z: (b, t, d), the state after the block.
        log_det: (b,), log-determinant in nats.
        log_scale: (b, t, d).
        hiddens: {layer, from 1: (b, t, width)} of the requested layers.
    """

    z: Tensor
    log_det: Tensor
    log_scale: Tensor
    hiddens: dict[int, Tensor]


class MetaBlock(nn.Module):
    """One autoregressive block with the sizes of `config`; with `reverse`, its own order is the reversed raster order."""

    def __init__(self, config: TarFlowConfig, reverse: bool):
        super().__init__()
        self.reverse, self.clamp = reverse, config.affine_clamp
        self.scales = not config.volume_preserving
        self.heads, self.head_dim = config.width // config.head_dim, config.head_dim
        self.token_in = nn.Linear(config.token_dim, config.width)
        if config.positions == "learned":
            self.position = nn.Parameter(small_normal(config.tokens, config.width))
        else:
            self.position = None
        rope = rope_table(config.rows_columns, config.head_dim) if config.positions == "rope" else None
        self.register_buffer("rope", rope, persistent=False)
        self.class_embedding = ClassEmbedding(config.num_classes, config.width) if config.num_classes else None
        self.layers = nn.ModuleList(
            TransformerLayer(config.width, config.head_dim, config.norm, config.mlp, config.mlp_ratio)
            for _ in range(config.layers_per_block)
        )
        self.params_out = nn.Linear(config.width, config.token_dim * (2 if self.scales else 1))
        nn.init.zeros_(self.params_out.weight)  # the block starts as the identity; the zero bias is our choice
        nn.init.zeros_(self.params_out.bias)

    def permute(self, tokens: Float[Tensor, "b t *d"]) -> Float[Tensor, "b t *d"]:
        """Convert raster order to the block's own order, or back: a flip is its own inverse."""
        return tokens.flip(1) if self.reverse else tokens

    def condition(self, y: Labels) -> Float[Tensor, "#b width"] | None:
        """Return the class vector that is added to every token, or None for an unconditional model."""
        return None if self.class_embedding is None else self.class_embedding(y)

    def next_params(
        self,
        u: Float[Tensor, "b t d"],
        condition: Float[Tensor, "#b width"] | None,
        temperature: Float[Tensor, " b"] | None = None,
        hiddens: dict[int, Tensor | None] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t d"]]:
        """Return (log_scale, shift) of the tokens that FOLLOW each token of `u`, all in the block's own order.

        Row i of the result depends on u_0 ... u_i and belongs to token i + 1; the last row is unused. The outputs of the
        layers that are keys of `hiddens` are stored in it. `temperature` divides the attention logits.
        """
        h = self.token_in(u).to(self.token_in.weight.dtype)  # the layers add to it: in float32 under autocast too
        if self.position is not None:
            h = h + self.own_order(self.position)
        if condition is not None:
            h = h + condition[:, None]
        rope = None if self.rope is None else self.own_order(self.rope)
        for number, layer in enumerate(self.layers, 1):
            h = layer(h, rope, temperature)
            if hiddens is not None and number in hiddens:
                hiddens[number] = h
        return self.split_params(self.raw_params(h))

    def raw_params(self, h: Float[Tensor, "b t width"]) -> Float[Tensor, "b t p"]:
        """Apply the output layer in the number format of its weights.

        Autocast would round log_scale and shift to bfloat16, and with them z and the log-determinant.
        """
        with without_autocast(h):
            return self.params_out(h.to(self.params_out.weight.dtype))

    def split_params(self, out: Float[Tensor, "*b p"]) -> tuple[Float[Tensor, "*b d"], Float[Tensor, "*b d"]]:
        """Return (log_scale, shift) from the output layer: split and clamped; log_scale is 0 if the flow preserves volume."""
        log_scale, shift = out.chunk(2, dim=-1) if self.scales else (torch.zeros_like(out), out)
        if self.clamp is not None:
            log_scale, shift = log_scale.clamp(-self.clamp, self.clamp), shift.clamp(-self.clamp, self.clamp)
        return log_scale, shift

    def forward(self, x: Float[Tensor, "b t d"], y: Labels = None, layers: Iterable[int] = ()) -> BlockOutput:
        """Map data to noise. `layers`: the 1-based layers whose outputs are returned in `hiddens`, in raster order."""
        u = self.permute(x)
        hiddens: dict[int, Tensor | None] = dict.fromkeys(layers)
        next_log_scale, next_shift = self.next_params(u, self.condition(y), hiddens=hiddens)
        log_scale, shift = one_token_later(next_log_scale), one_token_later(next_shift)
        z, log_det = affine_forward(u, log_scale, shift)
        hiddens = {number: self.permute(h) for number, h in hiddens.items()}
        return BlockOutput(self.permute(z), log_det, self.permute(log_scale), hiddens)

    def own_order(self, table: Float[Tensor, " t *width"]) -> Float[Tensor, " t *width"]:
        """Convert a table with one row per token from raster order to the block's own order."""
        return table.flip(0) if self.reverse else table

    def extra_repr(self) -> str:
        return f"order={'reversed' if self.reverse else 'raster'}, clamp={self.clamp}"


def one_token_later(params: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
    """Shift parameters to their tokens: row i moves to i + 1, and the first row is 0, so z_0 = x_0."""
    return F.pad(params[:, :-1], (0, 0, 1, 0))
