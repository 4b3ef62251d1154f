"""Guidance of the student, block by block (BiFlow, equations 4 and 5).

In sampling, each block is evaluated twice: h' = (1 + w) G(h | c) - w G(h), which is `labcore.guidance.guide`.

Or in training, so that sampling needs one evaluation: the block learns the guided output G_cfg(h | c, w) itself. Training
compares a blend of the guided and the unguided output with the flow's trajectory, and passes this blend on. For a
perfectly guided block the blend is the conditional output:

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
    """Return (guided + w unguided) / (1 + w), equation 5; w has the leading axes of both."""
    return (guided + w * unguided) / (1 + w)


def draw_guidance(noise: StepNoise, most: float, y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Draw a scale for each image, uniform on [0, most) (our choice); 0 for an image without a class."""
    w = most * noise.uniform("guidance")
    return torch.where(y == NULL, torch.zeros_like(w), w)


def per_state(guidance: float, denoiser: float, config: object) -> list[float]:
    """Return one scale per block, with a separate one for the denoising block; ValueError for a model without such a block."""
    if not getattr(config, "denoiser", False):
        raise ValueError("a separate guidance of the denoising block needs a student that has such a block")
    return [guidance] * config.num_blocks + [denoiser]


def warn_outside(guidance: Guidance, most: float) -> None:
    """Warn if a scale lies outside the trained range [0, most]."""
    low, high = extent(guidance)
    if not 0 <= low <= high <= most:
        warnings.warn(
            f"guidance runs from {low:g} to {high:g}; this model was trained on 0 to {most:g}, and its images "
            "outside of that range may be meaningless",
            stacklevel=3,
        )
