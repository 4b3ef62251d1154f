"""Whether likelihood and alignment pull a block the same way: cosine and size of their gradients, block by block.

FlowBack reports that they conflict in the blocks near the image, which is why it aligns blocks near z.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from labcore.rng import StepNoise
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.types import Batch


class BlockConflict(NamedTuple):
    """Of one block: cosine of both gradients (None where the alignment has none), and their norms."""

    block: int
    cosine: float | None
    likelihood_norm: float
    align_norm: float


def conflict(flow: nn.Module, objective: LikelihoodAndAlignment, batch: Batch, noise: StepNoise) -> list[BlockConflict]:
    """The gradients of nats/dim and of weight x alignment on one batch, compared in every block."""
    nats, losses = objective.terms(flow, batch, noise)
    align = objective.config.weight * torch.stack(list(losses.values())).mean()
    blocks = [list(block.parameters()) for block in flow.blocks]
    everything = [p for block in blocks for p in block]
    pair = [iter(torch.autograd.grad(term, everything, retain_graph=True, allow_unused=True)) for term in (nats, align)]
    found = []
    for number, parameters in enumerate(blocks, 1):
        a, b = (
            torch.cat([(torch.zeros_like(p) if (g := next(grads)) is None else g).flatten() for p in parameters])
            for grads in pair
        )
        cosine = float(torch.cosine_similarity(a, b, dim=0)) if b.any() else None
        found.append(BlockConflict(number, cosine, float(a.norm()), float(b.norm())))
    return found
