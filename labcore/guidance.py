"""Classifier-free guidance of an affine flow (TARFlow, guidance).

At every token of every block the conditional and the unconditional parameters are extrapolated, shift and log-scale alike:

    guided = c + g (c - u)

g = 0 is no guidance. Much of the literature counts from 1 instead (s = 1 is no guidance): `from_cfg_scale` converts.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Schedule = Literal["constant", "linear"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "linear")


def guide(conditional: Tensor, unconditional: Tensor, g: Tensor | float) -> Tensor:
    """Return c + g (c - u), which is c at g = 0."""
    return conditional + g * (conditional - unconditional)


def from_cfg_scale(scale: float) -> float:
    """Return g for a cfg scale s in u + s (c - u): g = s - 1."""
    return scale - 1


def token_weights(schedule: Schedule, tokens: int, like: Tensor) -> Float[Tensor, " t"]:
    """Return the weight of the guidance at each position j of a block's own order: 1 ("constant") or j / (t - 1) ("linear").

    The linear schedule is ml-tarflow's `annealed_guidance`, which its FID evaluation uses. Device and dtype are those of
    `like`: in float64 the weights are exact to float64.
    """
    if schedule == "constant":
        return like.new_ones(tokens)
    if schedule == "linear":
        wide = torch.promote_types(like.dtype, torch.float32)  # bfloat16 does not hold every position above 256
        return (torch.arange(tokens, dtype=wide, device=like.device) / max(tokens - 1, 1)).to(like)
    raise ValueError(f"guidance_schedule was {schedule!r}; allowed are {', '.join(SCHEDULES)}")


Guidance = float | Tensor | list[float] | tuple[float, ...]
"""A number, a tensor (b,) with one value for each image, or a list or tuple with one value for each block."""


def extent(guidance: Guidance) -> tuple[float, float]:
    """Return the (smallest, largest) value. Numbers are compared in Python; a tensor is read once, which waits for a GPU.

    Raises ValueError for NaN or infinity.
    """
    if isinstance(guidance, Tensor):
        low, high = torch.stack(guidance.aminmax()).tolist() if guidance.numel() else (0.0, 0.0)
    else:
        values = [float(g) for g in guidance] if isinstance(guidance, list | tuple) else [float(guidance)]
        low, high = min(values, default=0.0), max(values, default=0.0)
        if not all(map(math.isfinite, values)):  # Python's min and max may overlook NaN
            low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("guidance holds NaN or infinity; give finite numbers, 0 is off")
    return low, high


def per_block(guidance: Guidance, blocks: int, like: Float[Tensor, "b t d"]) -> list[Float[Tensor, "b 1"] | None]:
    """Return the guidance of each block 1..T: None if it is 0 for the whole batch (no second branch), else (b, 1) in z's dtype.

    This waits for a GPU only if `guidance` is a tensor, and then once.
    """
    batch = len(like)
    if not isinstance(guidance, int | float | list | tuple | Tensor):
        guidance = torch.as_tensor(guidance)  # numpy's
    if isinstance(guidance, list | tuple):
        if len(guidance) != blocks:
            raise ValueError(
                f"guidance has {len(guidance)} values; a list needs one per block, {blocks} of them. "
                "One value per image is a tensor of shape (b,)"
            )
        extent(guidance)
        return [None if float(g) == 0 else like.new_full((batch, 1), float(g)) for g in guidance]
    if isinstance(guidance, Tensor) and (guidance.ndim > 1 or (guidance.ndim == 1 and guidance.shape[0] != batch)):
        raise ValueError(
            f"guidance has shape {tuple(guidance.shape)}; allowed are a number, (b,) = ({batch},), "
            f"or a list of {blocks} values, one per block"
        )
    if extent(guidance) == (0.0, 0.0):
        return [None] * blocks
    if isinstance(guidance, Tensor):
        row = guidance.to(like.device, like.dtype).expand(batch)[:, None]
    else:
        row = like.new_full((batch, 1), float(guidance))
    return [row] * blocks
