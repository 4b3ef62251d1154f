"""Guidance of the learned inverse, block by block (BiFlow, equations 4 and 5).

At sampling, with two evaluations of each block: h' = (1 + w) G(h | c) - w G(h), which is `labcore.guidance.guide`.

Or in training, so that sampling takes one: the block learns the guided output G_cfg(h | c, w) itself. What is compared with
the flow's trajectory, and handed on while training, is the blend of it with the unguided output, which for a perfectly
guided block is the conditional one:

    ((1 + w) A(h | c) - w A(h) + w A(h)) / (1 + w) = A(h | c)
"""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labcore.guidance import Guidance, extent
from labcore.rng import StepNoise
from labcore.types import NULL


def blend(guided: Tensor, unguided: Tensor, w: Tensor) -> Tensor:
    """(guided + w unguided) / (1 + w), equation 5; w has the leading axes of both."""
    return (guided + w * unguided) / (1 + w)


def draw_guidance(noise: StepNoise, most: float, y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """A scale for each image, uniform on [0, most) (our choice); 0 where it has no class."""
    w = most * noise.uniform("guidance")
    return torch.where(y == NULL, torch.zeros_like(w), w)


def per_state(guidance: float, denoiser: float, config: object) -> list[float]:
    """A scale for each block, the denoising one's apart. ValueError for a model that has no denoising block."""
    if not getattr(config, "denoiser", False):
        raise ValueError("a separate guidance of the denoising block needs a learned inverse that has such a block")
    return [guidance] * config.num_blocks + [denoiser]


def warn_outside(guidance: Guidance, most: float) -> None:
    """Warn where a scale lies outside of what the model was trained on, [0, most]."""
    low, high = extent(guidance)
    if not 0 <= low <= high <= most:
        warnings.warn(
            f"guidance runs from {low:g} to {high:g}; this model was trained on 0 to {most:g}, and what it does "
            "outside of that is a guess",
            stacklevel=3,
        )
