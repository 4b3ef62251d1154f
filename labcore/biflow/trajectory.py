"""The flow's trajectory as what its learned inverse is taught: z to begin with, and the states from z back to the image."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labcore import tf32
from labcore.flows.metablock import Labels
from labcore.flows.tarflow import TarFlow


class Trajectory(NamedTuple):
    """z (b, t, d); states x^(B-1) ... x^0 in generation order, each (b, t, d), x^0 as the flow saw it; the clean tokens."""

    z: Tensor
    states: tuple[Tensor, ...]
    clean: Tensor

    def targets(self, denoiser: bool) -> tuple[Tensor, ...]:
        """What the blocks of a backward model are compared with: one state a block, the clean image for a denoiser."""
        return (*self.states, self.clean) if denoiser else self.states


@torch.no_grad()
def trajectory(
    flow: TarFlow, noisy: Float[Tensor, "b c h w"], y: Labels, clean: Float[Tensor, "b c h w"]
) -> Trajectory:
    """What the flow does to noisy images of class y, without gradient. The labels are the true ones, never dropped.

    In the flow's own dtype, where training runs under autocast too: that is the map which the inverse is judged on. On a GPU
    its products are then TensorFloat-32 (our choice: in full float32 they would take longer than all the rest).
    """
    with _products(noisy.device.type), torch.autocast(noisy.device.type, enabled=False):
        out = flow.unchecked(noisy, y)  # within a training step, which waits for no look
    return Trajectory(out.z, (*out.latents[-2::-1], flow.patchify(noisy)), flow.patchify(clean))


def _products(kind: str) -> contextlib.AbstractContextManager:
    """TF32 on a GPU where autocast is on; elsewhere what is set."""
    fast = kind != "cpu" and torch.is_autocast_enabled(kind)
    return tf32.use(True) if fast else contextlib.nullcontext()


def check_teacher(flow: TarFlow) -> None:
    """ValueError for flows whose noise is not the standard one that a backward model is sampled from."""
    if flow.config.volume_preserving:
        raise ValueError(
            "the flow preserves volume, and its prior has a variance of its own; a learned inverse needs one with "
            "volume_preserving=False"
        )
