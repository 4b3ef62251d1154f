"""Norm control (BiFlow): states of all depths get the same weight.

Along a flow the states' sizes can differ by orders of magnitude, and the largest then dominates a squared error. The
paper clamps the flow's affine parameters to [-c, c] (`affine_clamp` of its configuration) and normalises each state
before the comparison; it does not give the constant. Here prediction and target are divided by the target's root mean
square:

    block     one constant for each state, measured on training images; the default
    sample    the RMS of each image
    none      1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.flows.metablock import Labels
from labcore.flows.tarflow import TarFlow

Normalise = Literal["none", "block", "sample"]


def rms(states: Sequence[Float[Tensor, "b t d"]]) -> Float[Tensor, "s b"]:
    """Return the root mean square of each state of each image."""
    wide = torch.promote_types(states[0].dtype, torch.float32)
    return torch.stack([state.to(wide).square().mean((1, 2)).sqrt() for state in states])


def scales(
    targets: Sequence[Float[Tensor, "b t d"]], normalise: Normalise, blocks: Float[Tensor, " s"]
) -> Float[Tensor, "s b"]:
    """Return the divisors of each state and image; `blocks` are the constants of "block"."""
    if normalise == "sample":
        return rms(targets).clamp_min(1e-6)
    one = blocks if normalise == "block" else torch.ones_like(blocks)
    return one[:, None].expand(-1, len(targets[0]))


def trajectory_rms(flow: TarFlow, x: Float[Tensor, "b c h w"], y: Labels) -> list[float]:
    """Return the root mean square of x^0 (x itself) to x^T = z over a batch of images with training noise."""
    with torch.no_grad():
        of_images = rms([flow.patchify(x), *flow(x, y).latents])
    return of_images.square().mean(1).sqrt().tolist()


@torch.no_grad()
def largest_parameters(flow: TarFlow, x: Float[Tensor, "b c h w"], y: Labels) -> tuple[float, float]:
    """Return the largest |log-scale| and |shift| of any block over a batch of images: a smaller clamp would change them."""
    log_scales: list[Tensor] = []
    out = flow(x, y, callback=lambda _, block: log_scales.append(block.log_scale))
    inputs = [flow.patchify(x), *out.latents[:-1]]
    # x = z exp(log_scale) + shift, solved for the shift
    shifts = [x - z * a.exp() for x, z, a in zip(inputs, out.latents, log_scales, strict=True)]
    return _largest(log_scales), _largest(shifts)


def _largest(values: Sequence[Tensor]) -> float:
    return max(float(value.abs().amax()) for value in values)


def shares(
    sizes: Sequence[float], normalise: Normalise = "none", power: float = 0.0, offset: float = 1e-2
) -> list[float]:
    """Return each state's share of the loss before training, when predictions are 0. The shares sum to 1.

    sizes: root mean square of each state. A state's squared error is then its mean square, or 1 if it is normalised. Its
    adaptive weight (equation 7) has `power` p and `offset` c.
    """
    errors = [1.0 if normalise != "none" else size**2 for size in sizes]
    weighted = [error * (error + offset) ** -power for error in errors]
    return [value / sum(weighted) for value in weighted]
