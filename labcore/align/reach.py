"""Reach of an alignment's gradient, and comparison of the paper's stop-gradient with the full gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labcore.align.features import features
from labcore.directions import Direction
from labcore.flows.metablock import Labels
from labcore.rng import generator
from labcore.sites import Site
from labcore.types import FlowOutput


def gradient_reach(
    flow: nn.Module,
    x: Float[Tensor, "b c h w"],
    y: Labels,
    sites: Sequence[Site],
    direction: Direction,
    adjoint_sweeps: int = 0,
    seed: int = 0,
) -> list[float]:
    """Return the gradient norm in each block 1..T of a random linear function of the features; 0 if no gradient arrives."""
    return [float(g.norm()) for g in _gradients(flow, x, y, sites, direction, adjoint_sweeps, seed)]


class SweepGap(NamedTuple):
    """Comparison of a "reverse" gradient with the full gradient, over all parameters.

    Attributes:
        cosine: cosine between the two gradients.
        beyond_cosine: the same after the "detach" gradient is subtracted from both. What remains passes through the generated
            states.
        beyond_ratio: norm of the "reverse" gradient divided by that of the full one, after the same subtraction.
    """

    cosine: float
    beyond_cosine: float
    beyond_ratio: float

    @property
    def degrees(self) -> float:
        """Angle of `cosine`, in degrees."""
        return math.degrees(math.acos(max(-1.0, min(1.0, self.cosine))))

    @property
    def beyond_degrees(self) -> float:
        """Angle of `beyond_cosine`, in degrees."""
        return math.degrees(math.acos(max(-1.0, min(1.0, self.beyond_cosine))))


def sweep_gaps(
    flow: nn.Module,
    x: Float[Tensor, "b c h w"],
    y: Labels,
    sites: Sequence[Site],
    sweeps: Sequence[int],
    seed: int = 0,
) -> dict[int, SweepGap]:
    """Return {k: gap} between the "reverse" gradient with k sweeps and the full one (t - 1 sweeps), as in `gradient_reach`."""
    return gaps(lambda way, k: torch.cat(_gradients(flow, x, y, sites, way, k, seed)), flow.config.tokens, sweeps)


def gaps(
    gradient: Callable[[Direction, int], Float[Tensor, " p"]], tokens: int, sweeps: Sequence[int]
) -> dict[int, SweepGap]:
    """Return {k: gap} for a flat gradient that is a function of direction and adjoint sweeps."""
    full, detached = gradient("reverse", tokens - 1), gradient("detach", 0)
    full_beyond = full - detached
    found = {}
    for k in sweeps:
        truncated = gradient("reverse", k)
        beyond = truncated - detached
        found[k] = SweepGap(
            cosine=float(torch.cosine_similarity(truncated, full, dim=0)),
            beyond_cosine=float(torch.cosine_similarity(beyond, full_beyond, dim=0)),
            beyond_ratio=float(beyond.norm() / full_beyond.norm()),
        )
    return found


def flat(loss: Float[Tensor, ""], parameters: Sequence[Tensor], retain_graph: bool = False) -> Float[Tensor, " p"]:
    """Return the gradient in the parameters as one vector, 0 where none arrives."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
    return torch.cat([g.flatten() for g in filled])


def flat_by_block(loss: Float[Tensor, ""], flow: nn.Module, retain_graph: bool = False) -> list[Float[Tensor, " p"]]:
    """Return the gradient in each block's parameters as one vector, 0 where none arrives; blocks 1 to T."""
    sizes = [sum(p.numel() for p in block.parameters()) for block in flow.blocks]
    return list(flat(loss, block_parameters(flow), retain_graph).split(sizes))


def block_parameters(flow: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of all blocks, 1 to T."""
    return [p for block in flow.blocks for p in block.parameters()]


def _gradients(
    flow: nn.Module, x: Tensor, y: Labels, sites: Sequence[Site], direction: Direction, sweeps: int, seed: int
) -> list[Tensor]:
    """Return the gradient in each block as one vector."""
    states: FlowOutput = flow(x, y, sites if direction == "forward" else ())
    hiddens = features(flow, x, y, sites, direction, sweeps, states)
    total = torch.zeros((), device=x.device, dtype=states.z.dtype)
    for (block, layer), h in hiddens.items():
        weights = torch.randn(h.shape[1:], generator=generator(seed, "reach", block, layer)).to(h)
        total = total + (h * weights).mean()
    if not all(p.requires_grad for p in block_parameters(flow)):
        raise ValueError("some parameters of the flow are frozen; call flow.requires_grad_(True) first")
    return flat_by_block(total, flow)
