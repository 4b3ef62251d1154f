"""The affine parameters that an inverse sees: one branch, or two branches extrapolated by guidance.

Both branches run as one batch of 2b: the first half conditional, the second without class and, for unconditional models,
with attention logits divided by `attn_temp` (TARFlow, guidance).
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labcore.flows.metablock import Labels, MetaBlock
from labcore.flows.tarflow import TarFlow
from labcore.guidance import Guidance, Schedule, guide, per_block, token_weights
from labcore.inverse.decode import BlockDecoder


class GuidedBlock(NamedTuple):
    """One block of a flow, with all that its parameters depend on except the tokens.

    Attributes:
        block: the block.
        number: its number from 1; block 1 is next to the image.
        y: labels, as in the flow.
        g: guidance per image (b, 1); None for one branch.
        weights: (t,) weight of g by position in the block's own order.
        attn_temp: temperature of the attention logits in the second branch.
    """

    block: MetaBlock
    number: int
    y: Labels
    g: Float[Tensor, "b 1"] | None
    weights: Float[Tensor, " t"]
    attn_temp: float


def guided_blocks(
    flow: TarFlow,
    z: Float[Tensor, "b t d"],
    y: Labels = None,
    guidance: Guidance = 0.0,
    guidance_schedule: Schedule = "constant",
    attn_temp: float = 1.0,
) -> list[GuidedBlock]:
    """Return the blocks 1..T of a flow, guided as `labcore.invert` takes it, for a batch z (b, t, d).

    Raises ValueError for guidance and temperatures that do not fit.
    """
    if not 0 < attn_temp < math.inf:
        raise ValueError(
            f"attn_temp was {attn_temp}; it divides attention logits and must be above 0 and finite (1 changes nothing)"
        )
    weights = token_weights(guidance_schedule, flow.config.tokens, z)
    strengths = per_block(guidance, len(flow.blocks), z)
    if y is None and attn_temp == 1.0 and any(g is not None for g in strengths):
        raise ValueError(
            "guidance without labels compares two equal branches; give labels y, or attn_temp other than 1 (ImageNet 64 "
            "without classes uses 0.3 at guidance 0.2)"
        )
    pairs = zip(flow.blocks, strengths, strict=True)
    return [GuidedBlock(block, number, y, g, weights, attn_temp) for number, (block, g) in enumerate(pairs, 1)]


class GuidedParams:
    """Parameters of one block for one batch, token after token, with their own cache.

    g: guidance per image (b, 1), or None for one branch. weights: (t,) weight of g by position in the block's own order.
    decoder: plain, or `labcore.inverse.compiled.CompiledDecoder`.
    """

    def __init__(
        self,
        block: MetaBlock,
        y: Labels,
        z: Float[Tensor, "b t d"],
        g: Float[Tensor, "b 1"] | None,
        weights: Float[Tensor, " t"],
        attn_temp: float = 1.0,
        decoder: type[BlockDecoder] = BlockDecoder,
    ):
        b, t, _ = z.shape
        self.images, self.g, self.weights = b, g, weights.to(z)
        condition, temperature = branches(block, y, z, g, attn_temp)
        self.decoder = decoder(block, condition, temperature)
        self.cache = self.decoder.new_cache(b if g is None else 2 * b, t, z)

    def keep(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        self.cache.length = length

    def take(self, rows: Int[Tensor, " r"]) -> GuidedParams:
        """Return a copy of the parameters for these images alone, after the same tokens."""
        part = copy.copy(self)
        part.images, part.g = len(rows), None if self.g is None else self.g[rows]
        sequences = self._sequences(rows)
        part.decoder = self.decoder.take(sequences)
        part.cache = part.decoder.new_cache(len(sequences), len(self.weights), self.weights)
        part.cache.copy_from(sequences, self.cache)
        return part

    def _sequences(self, rows: Int[Tensor, " r"]) -> Int[Tensor, " n"]:
        """Return the cache rows of the images `rows`: those of the second branch follow those of the first."""
        return rows if self.g is None else torch.cat([rows, rows + self.images])

    def put(self, rows: Int[Tensor, " r"], part: GuidedParams, since: int, until: int) -> None:
        """Copy tokens since ... until - 1 from `part`, which was taken for these images."""
        self.cache.put(self._sequences(rows), part.cache, since, until)

    def after(self, u: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n d"]]:
        """Return (log_scale, shift) of the n tokens that follow the tokens `u`, which follow all tokens so far."""
        start, n = self.cache.length, u.shape[1]
        if self.g is None:
            return self.decoder.next_params(u, self.cache)
        log_scale, shift = self.decoder.next_params(torch.cat([u, u]), self.cache)
        # parameters number i belong to position start + i + 1; those after the last token to none
        weights = self.weights[start + 1 : start + n + 1]
        if len(weights) < n:
            weights = torch.cat([weights, weights.new_zeros(1)])
        g = (self.g * weights)[:, :, None]
        scale_conditional, scale_unconditional = log_scale.chunk(2)
        shift_conditional, shift_unconditional = shift.chunk(2)
        return guide(scale_conditional, scale_unconditional, g), guide(shift_conditional, shift_unconditional, g)


def branches(
    block: MetaBlock, y: Labels, z: Float[Tensor, "b t d"], g: Float[Tensor, "b 1"] | None, attn_temp: float
) -> tuple[Float[Tensor, "#n width"] | None, Float[Tensor, " n"] | None]:
    """Return (condition, temperature) of a batch's rows: b, or 2b with guidance. None: the block has no classes; all are 1."""
    b, condition, temperature = len(z), block.condition(y), None
    if g is None:
        return condition, None
    if condition is not None:
        condition = torch.cat([condition.expand(b, -1), block.condition(None).expand(b, -1)])
    if attn_temp != 1.0:
        temperature = torch.cat([z.new_ones(b), z.new_full((b,), attn_temp)])
    return condition, temperature
