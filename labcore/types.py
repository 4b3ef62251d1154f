"""Axis letters, the label for "no class", and the result types of the whole lab.

Shapes in signatures use fixed axis letters: ``b`` batch, ``t`` tokens (image patches in raster order), ``d`` token width
(channels x patch x patch), ``c`` channels, ``h`` ``w`` pixels, ``k`` classes, ``width`` hidden width of a transformer.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from labcore.sites import Site

NULL = -1
"""Class label that means "no class". The class embedding turns it into the mean of its table (TARFlow, guidance)."""


class Batch(NamedTuple):
    """A batch of training images, the argument of an objective.

    Attributes:
        x: images (b, c, h, w) in [-1, 1], without noise, already mirrored.
        y: int64 labels (b,); None for an unconditional model.
        index: int64 (b,), rows of the data set.
        mirrored: bool (b,), whether an image was mirrored.
        extra: further tensors that the objective requested, read with the images.
    """

    x: Tensor
    y: Tensor | None
    index: Tensor
    mirrored: Tensor
    extra: tuple[Tensor, ...] = ()


class FlowOutput(NamedTuple):
    """Output of a flow for a batch of images.

    Attributes:
        z: noise (b, t, d) in raster order, float32 or float64.
        log_det: log |det dz/dx| in nats, (b,), summed over tokens and channels, float32 or float64.
        latents: states after each block, x^1 ... x^T, each (b, t, d) in raster order; the last equals z.
        hiddens: {(block, layer): (b, t, width)} of the requested sites: the layer's output after its MLP residual, in raster
            order, with gradient.
    """

    z: Tensor
    log_det: Tensor
    latents: tuple[Tensor, ...]
    hiddens: dict[Site, Tensor]


class BackwardOutput(NamedTuple):
    """Output of a student (a learned inverse) for a batch of noise.

    Attributes:
        x: images (b, c, h, w), not clipped.
        states: (b, t, d) each, in generation order x^(B-1) ... x^0, then the clean image if the model denoises. The last one is
            patchify(x).
    """

    x: Tensor
    states: tuple[Tensor, ...]


class BlockStats(NamedTuple):
    """Statistics of the inverse of one block.

    Attributes:
        block: number of the block, from 1.
        sweeps: number of evaluations of the block; the sequential solver needs t - 1, of one token each.
        residual: largest change by the last sweep; None for the sequential solver.
        diverged: whether sweeps diverged for some images, so that these were solved token by token.
        converged: False if `max_sweeps` ended a segment before it was exact.
    """

    block: int
    sweeps: int
    residual: float | None
    diverged: bool = False
    converged: bool = True


class InverseOutput(NamedTuple):
    """Output of the exact inverse of a flow.

    Attributes:
        x: images (b, c, h, w), not clipped.
        stats: statistics of each block, in sampling order (last block first).
    """

    x: Tensor
    stats: tuple[BlockStats, ...]
