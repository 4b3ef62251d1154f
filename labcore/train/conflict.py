"""Conflict of likelihood and alignment: cosine and norms of their gradients, block by block.

FlowBack reports that they conflict in the blocks near the image, and therefore aligns blocks near z.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labcore.align.reach import SweepGap, block_parameters, flat, flat_by_block, gaps
from labcore.directions import Direction
from labcore.rng import StepNoise
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.types import Batch


class BlockConflict(NamedTuple):
    """Values of one block: cosine of both gradients (None if the alignment has none), and their norms."""

    block: int
    cosine: float | None
    likelihood_norm: float
    align_norm: float


def loss_gaps(
    flow: nn.Module, objective: LikelihoodAndAlignment, batch: Batch, noise: StepNoise, sweeps: Sequence[int]
) -> dict[int, SweepGap]:
    """Return `labcore.align.reach.sweep_gaps` of the alignment loss itself, with the objective's sites and projectors."""
    parameters = block_parameters(flow)

    def gradient(direction: Direction, k: int) -> Tensor:
        other = copy.copy(objective)  # the same projectors and targets
        other.config = objective.config.replace(direction=direction, adjoint_sweeps=k)
        _, losses = other.terms(flow, batch, noise)
        return flat(torch.stack(list(losses.values())).mean(), parameters)

    return gaps(gradient, flow.config.tokens, sweeps)


def conflict(flow: nn.Module, objective: LikelihoodAndAlignment, batch: Batch, noise: StepNoise) -> list[BlockConflict]:
    """Compare the gradients of nats/dim and of weight x alignment on one batch, in every block."""
    nats, losses = objective.terms(flow, batch, noise)
    align = objective.config.weight * torch.stack(list(losses.values())).mean()
    of_likelihood = flat_by_block(nats, flow, retain_graph=True)
    of_alignment = flat_by_block(align, flow, retain_graph=True)
    conflicts = []
    for number, (a, b) in enumerate(zip(of_likelihood, of_alignment, strict=True), 1):
        cosine = float(torch.cosine_similarity(a, b, dim=0)) if b.any() else None
        conflicts.append(BlockConflict(number, cosine, float(a.norm()), float(b.norm())))
    return conflicts
