"""Where flows die first: the affine parameters, the scale of each block's state, and the round trip."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.flows.metablock import Labels
from labcore.flows.tarflow import TarFlow
from labcore.inverse.solve import invert


@torch.no_grad()
def block_health(flow: TarFlow, x: Float[Tensor, "b c h w"], y: Labels) -> dict[str, float]:
    """Largest |log_scale| over all blocks, and the RMS of each block's output state (1 at the last for a good flow)."""
    peaks: list[Tensor] = []
    # forward, not the call: a compiled model would compile again for the callback
    out = flow.forward(x, y, callback=lambda _, block: peaks.append(block.log_scale.abs().amax()))
    rms = torch.stack([state.square().mean().sqrt() for state in out.latents])
    values = torch.cat([torch.stack(peaks).amax()[None].to(rms), rms]).tolist()  # one wait for the device
    return {"max_log_scale": values[0]} | {f"state_rms/block_{i}": v for i, v in enumerate(values[1:], 1)}


@torch.no_grad()
def round_trip_error(flow: TarFlow, x: Float[Tensor, "b c h w"], y: Labels) -> float:
    """Largest |invert(flow(x)) - x|."""
    return float((invert(flow, flow(x, y).z, y, compiled=False).x - x).abs().amax())
