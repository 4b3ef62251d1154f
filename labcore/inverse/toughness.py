"""Difficulty of solving a block by sweeps, from images alone: GS-Jacobi's two metrics (arXiv 2505.12849, IGM and CRM).

Norms are spectral norms of the (t, d) or (d, width) matrices, as in the paper's experiments. Both metrics use the mean
over a batch of images; the paper takes a thousand of its training set.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.flows.metablock import Labels, MetaBlock
from labcore.flows.tarflow import TarFlow
from labcore.inverse.methods import Start
from labcore.kernels.affine import affine_inverse


@torch.no_grad()
def initial_guess_metric(flow: TarFlow, x: Float[Tensor, "b c h w"], y: Labels = None) -> list[dict[Start, float]]:
    """Return || mean over images of (first sweep from a start) - (the solution) ||_2 of each block 1..T, for each start.

    A smaller value means a better start (arXiv 2505.12849, IGM). "zeros" has z's first token, which is known.
    """
    metrics = []
    for block, u, z, _ in _solved(flow, x, y):
        starts = {"z": z, "zeros": torch.cat([z[:, :1], torch.zeros_like(z[:, 1:])], 1)}
        errors = {name: _sweep(block, start, z, y) - u[:, 1:] for name, start in starts.items()}
        metrics.append({name: _norm(error.mean(0)) for name, error in errors.items()})
    return metrics


@torch.no_grad()
def convergence_ranking_metric(flow: TarFlow, x: Float[Tensor, "b c h w"], y: Labels = None) -> list[float]:
    """Return || mean over images of exp(-log_scale) x ||_2 ||W_log_scale||_2 + ||W_shift||_2 per block, summing to 1.

    A large value marks a block that takes many sweeps (arXiv 2505.12849, CRM). W are the output layer's rows for each.
    """
    metrics = []
    for block, u, _, log_scale in _solved(flow, x, y):
        weight = block.params_out.weight
        scales, shifts = weight.chunk(2) if block.scales else (torch.zeros_like(weight), weight)
        scaled_mean = (torch.exp(-log_scale) * u).mean(0)
        metrics.append(_norm(scaled_mean) * _norm(scales) + _norm(shifts))
    total = sum(metrics)
    if not total:  # an untrained flow: all blocks are equally hard
        return [1 / len(metrics)] * len(metrics)
    return [value / total for value in metrics]


def _solved(flow: TarFlow, x: Tensor, y: Labels) -> Iterator[tuple[MetaBlock, Tensor, Tensor, Tensor]]:
    """Yield (block, its input, its output, log_scale) of each block 1..T, with tensors (b, t, d) in the block's own order.

    Raises ValueError for images or labels that do not fit the flow, and if there are no images.
    """
    flow.check_images(x)
    flow.check_labels(y, len(x), ranges=True)
    if not len(x):
        raise ValueError("no images were given; give at least 1")
    tokens = flow.patchify(x)
    for block in flow.blocks:
        out = block(tokens, y)
        yield block, *(block.permute(part) for part in (tokens, out.z, out.log_scale))
        tokens = out.z


def _sweep(block: MetaBlock, start: Tensor, z: Tensor, y: Labels) -> Tensor:
    """Return tokens 2 ... t after one sweep over all of them."""
    log_scale, shift = block.next_params(start, block.condition(y))
    return affine_inverse(z[:, 1:], log_scale[:, :-1], shift[:, :-1])


def _norm(matrix: Float[Tensor, "n m"]) -> float:
    """Return the largest singular value."""
    return float(torch.linalg.matrix_norm(matrix, 2))
