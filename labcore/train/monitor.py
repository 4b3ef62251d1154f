"""Early signs of a failing training: size of each block's state, and round trip. The objective logs affine parameters."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.flows.metablock import Labels
from labcore.flows.tarflow import TarFlow
from labcore.inverse.solve import invert


@torch.no_grad()
def state_rms(flow: TarFlow, x: Float[Tensor, "b c h w"], y: Labels) -> dict[str, float]:
    """Return the RMS of each block's output state (1 at the last for a good flow), as `state_rms/block_i`, i from 1.

    Values that are not finite are reported too.
    """
    rms = torch.stack(
        [state.square().mean().sqrt() for state in flow.unchecked(x, y).latents]
    ).tolist()  # one wait for the device
    return {f"state_rms/block_{i}": value for i, value in enumerate(rms, 1)}


@torch.no_grad()
def round_trip_error(flow: TarFlow, x: Float[Tensor, "b c h w"], y: Labels) -> float:
    """Return the largest |invert(flow(x)) - x|."""
    return float((invert(flow, flow(x, y).z, y, compiled=False).x - x).abs().amax())
