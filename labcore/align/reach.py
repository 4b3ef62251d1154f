"""How far the gradient of an alignment reaches, and how near the paper's stop-gradient comes to the full one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labcore.align.features import Direction, features
from labcore.flows.metablock import Labels
from labcore.rng import generator
from labcore.types import FlowOutput, Site


def gradient_reach(
    flow: nn.Module,
    x: Float[Tensor, "b c h w"],
    y: Labels,
    sites: Sequence[Site],
    direction: Direction,
    adjoint_sweeps: int = 0,
    seed: int = 0,
) -> list[float]:
    """Gradient norm in each block's parameters, 1 to T, of a random linear function of the features; 0 where none arrives."""
    return [float(g.norm()) for g in _gradients(flow, x, y, sites, direction, adjoint_sweeps, seed)]


def sweep_cosines(
    flow: nn.Module,
    x: Float[Tensor, "b c h w"],
    y: Labels,
    sites: Sequence[Site],
    sweeps: Sequence[int],
    seed: int = 0,
) -> dict[int, float]:
    """{k: cosine} of the "reverse" gradient with k sweeps and the full one (t - 1 sweeps), over all parameters together."""
    full = torch.cat(_gradients(flow, x, y, sites, "reverse", flow.config.tokens - 1, seed))
    parts = {k: torch.cat(_gradients(flow, x, y, sites, "reverse", k, seed)) for k in sweeps}
    return {k: float(torch.cosine_similarity(g, full, dim=0)) for k, g in parts.items()}


def _gradients(
    flow: nn.Module, x: Tensor, y: Labels, sites: Sequence[Site], direction: Direction, sweeps: int, seed: int
) -> list[Tensor]:
    """The gradient in each block, flat."""
    states: FlowOutput = flow(x, y, sites if direction == "forward" else ())
    hiddens = features(flow, x, y, sites, direction, sweeps, states)
    total = torch.zeros((), device=x.device, dtype=states.z.dtype)
    for (block, layer), h in hiddens.items():
        weights = torch.randn(h.shape[1:], generator=generator(seed, "reach", block, layer)).to(h)
        total = total + (h * weights).mean()
    blocks = [list(block.parameters()) for block in flow.blocks]
    gradients = iter(torch.autograd.grad(total, [p for block in blocks for p in block], allow_unused=True))
    return [
        torch.cat([(torch.zeros_like(p) if (g := next(gradients)) is None else g).flatten() for p in block])
        for block in blocks
    ]
