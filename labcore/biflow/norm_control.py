"""Norm control (BiFlow): states of all depths weigh the same.

Along a flow the states' sizes can differ by orders of magnitude, and a squared error then sees the largest only. The paper
holds the flow's affine parameters in [-c, c] (`affine_clamp` of its configuration) and normalises each state before it is
compared; it does not say by what. Here prediction and target are divided by the target's root mean square:

    block     one constant for each state, measured on training images; the default
    sample    that of each image
    none      1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Normalise = Literal["none", "block", "sample"]


def rms(states: Sequence[Float[Tensor, "b t d"]]) -> Float[Tensor, "s b"]:
    """Root mean square of each state of each image."""
    return torch.stack([state.float().square().mean((1, 2)).sqrt() for state in states])


def scales(
    targets: Sequence[Float[Tensor, "b t d"]], normalise: Normalise, blocks: Float[Tensor, "s"]
) -> Float[Tensor, "s b"]:
    """What prediction and target of each state and image are divided by; `blocks` are the constants of "block"."""
    if normalise == "sample":
        return rms(targets).clamp_min(1e-6)
    one = blocks if normalise == "block" else torch.ones_like(blocks)
    return one[:, None].expand(-1, len(targets[0]))
