"""Axis letters, the label for "no class", and the result types that the whole lab shares.

Shapes in signatures use fixed axis letters: ``b`` batch, ``t`` tokens (image patches in raster order), ``d`` token width
(channels x patch x patch), ``c`` channels, ``h`` ``w`` pixels, ``k`` classes, ``width`` hidden width of a transformer.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NULL = -1
"""Class label that means "no class". The class embedding turns it into the mean of its table (TARFlow, guidance)."""

Site = tuple[int, int]
"""(block, layer), both counted from 1 as in the papers: block 1 touches the image, the last block touches z."""


class Batch(NamedTuple):
    """Images to train on, as an objective gets them.

    x: (b, c, h, w) in [-1, 1], clean, mirrored where `mirrored` says. y: (b,) int64 labels, None for an unconditional
    model. index: (b,) int64, rows of the data set. mirrored: (b,) bool. extra: what the objective asked to be
    read with the images.
    """

    x: Tensor
    y: Tensor | None
    index: Tensor
    mirrored: Tensor
    extra: tuple[Tensor, ...] = ()


class FlowOutput(NamedTuple):
    """What a flow returns for a batch of images.

    z: (b, t, d), raster order, float32 or better.
    log_det: (b,), log |det dz/dx| in nats, summed over tokens and channels, float32 or better.
    latents: block outputs x^1 ... x^T, each (b, t, d) in raster order; the input is not among them, the last equals z.
    hiddens: {(block, layer): (b, t, width)}, the layer's output after its MLP residual, raster order, not detached;
        holds exactly the sites that were asked for.
    """

    z: Tensor
    log_det: Tensor
    latents: tuple[Tensor, ...]
    hiddens: dict[Site, Tensor]


class BackwardOutput(NamedTuple):
    """What a learned inverse returns for a batch of noise.

    x: images (b, c, h, w), not clipped. states: (b, t, d) each, in generation order x^(B-1) ... x^0, then the clean image
    where the model denoises; the last one is patchify(x).
    """

    x: Tensor
    states: tuple[Tensor, ...]


class BlockStats(NamedTuple):
    """How one block was inverted.

    block: 1-based block number. sweeps: network evaluations over the block's tokens (the sequential solver needs t - 1
    one-token steps). residual: largest change of the last sweep, None for the sequential solver. diverged: whether images
    had to be solved token by token after all. converged: False where `max_sweeps` ended a segment that should become exact.
    """

    block: int
    sweeps: int
    residual: float | None
    diverged: bool = False
    converged: bool = True


class InverseOutput(NamedTuple):
    """x: images (b, c, h, w), not clipped. stats: one entry per block, in sampling order (last block first)."""

    x: Tensor
    stats: tuple[BlockStats, ...]
