"""Classifier-free guidance of an affine flow (TARFlow, guidance).

At every token of every block the conditional and the unconditional parameters are extrapolated, shift and log-scale alike:

    guided = c + g (c - u)

g = 0 is no guidance. Much of the literature counts from 1 instead (s = 1 is no guidance): `from_cfg_scale` converts.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Schedule = Literal["constant", "linear"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "linear")


def guide(conditional: Tensor, unconditional: Tensor, g: Tensor | float) -> Tensor:
    """c + g (c - u); the identity at g = 0."""
    return conditional + g * (conditional - unconditional)


def from_cfg_scale(scale: float) -> float:
    """The g of a cfg scale s in u + s (c - u): g = s - 1."""
    return scale - 1


def token_weights(schedule: Schedule, tokens: int, device: torch.device | None = None) -> Float[Tensor, "t"]:
    """Weight of the guidance at position j of a block's own order: 1 ("constant") or j / (t - 1) ("linear").

    The linear schedule is ml-tarflow's `annealed_guidance`, which its FID evaluation uses.
    """
    if schedule == "constant":
        return torch.ones(tokens, device=device)
    if schedule == "linear":
        return torch.arange(tokens, device=device) / max(tokens - 1, 1)
    raise ValueError(f"guidance_schedule was {schedule!r}; allowed are {', '.join(SCHEDULES)}")


def per_block(
    guidance: float | Tensor | list[float] | tuple[float, ...], blocks: int, like: Float[Tensor, "b t d"]
) -> list[Tensor | None]:
    """Guidance of each block 1..T: None where it is 0 for the whole batch (no second branch), else (b, 1) as z's dtype.

    `guidance` is a number, a tensor (b,) with one value per image, or a list or tuple with one value per block.
    """
    if isinstance(guidance, int | float) and guidance == 0:
        return [None] * blocks  # without a look at values, for which a GPU would have to be waited for
    batch, options = len(like), {"dtype": like.dtype, "device": like.device}
    if isinstance(guidance, list | tuple):
        if len(guidance) != blocks:
            raise ValueError(
                f"guidance has {len(guidance)} values; a list needs one per block, {blocks} of them. "
                "One value per image is a tensor of shape (b,)"
            )
        rows = [torch.full((batch,), float(g), **options) for g in guidance]
    else:
        one = torch.as_tensor(guidance, **options)
        if one.ndim > 1 or (one.ndim == 1 and one.shape[0] != batch):
            raise ValueError(
                f"guidance has shape {tuple(one.shape)}; allowed are a number, (b,) = ({batch},), "
                f"or a list of {blocks} values, one per block"
            )
        rows = [one.expand(batch)] * blocks
    if not all(bool(row.isfinite().all()) for row in rows):
        raise ValueError("guidance holds NaN or infinity; give finite numbers, 0 is off")
    return [row[:, None] if bool((row != 0).any()) else None for row in rows]
