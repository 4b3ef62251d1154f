"""Change of each token in a sweep of a fixed point: the residual of Jacobi's iteration."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from labcore.kernels import dispatch

ROUNDING = 8
"""Units in the last place of a value (of 1 for smaller values) that count as no change; our choice."""


def sweep_change(
    new: Float[Tensor, "b n d"], old: Float[Tensor, "b n d"]
) -> tuple[Float[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Return for every token the largest |new - old| (infinity for NaN), and whether no value changed beyond rounding."""
    rounding = ROUNDING * torch.finfo(new.dtype).eps
    if dispatch.by_triton(new, old):
        found = dispatch.by_twin("change_triton", "sweep_change", new, old, rounding)
        if found is not None:
            return found
    moved = (new - old).abs()
    still = (moved <= rounding * new.abs().clamp(min=1.0)).all(-1)
    return moved.amax(-1).nan_to_num(nan=float("inf"), posinf=float("inf")), still
