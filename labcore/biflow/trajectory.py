"""The flow's trajectory, which teaches its student: z, and the states from z back to the image."""

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
        """Return the targets of a backward model's blocks: one state per block, the clean image for a denoising block."""
        return (*self.states, self.clean) if denoiser else self.states


@torch.no_grad()
def trajectory(
    flow: TarFlow, noisy: Float[Tensor, "b c h w"], y: Labels, clean: Float[Tensor, "b c h w"]
) -> Trajectory:
    """Compute the flow's states for noisy images, without gradient.

    The pass uses the flow's own dtype, also if training runs under autocast, because the inverse is evaluated on this
    map. On a GPU its products are then TensorFloat-32 (our choice: in full float32 they would take longer than all the
    rest).

    Args:
        flow: the teacher.
        noisy: images (b, c, h, w) with training noise.
        y: true labels, never dropped, as in the flow.
        clean: the images without noise.
    """
    with _products(noisy.device.type), torch.autocast(noisy.device.type, enabled=False):
        out = flow.unchecked(noisy, y)  # within a training step, which waits for no look
    return Trajectory(out.z, (*out.latents[-2::-1], flow.patchify(noisy)), flow.patchify(clean))


def _products(kind: str) -> contextlib.AbstractContextManager:
    """Allow TF32 on a GPU if autocast is on; leave the setting unchanged elsewhere."""
    fast = kind != "cpu" and torch.is_autocast_enabled(kind)
    return tf32.use(True) if fast else contextlib.nullcontext()


def check_teacher(flow: TarFlow) -> None:
    """Raise ValueError for a flow whose prior is not the standard normal that a backward model is sampled from."""
    if flow.config.volume_preserving:
        raise ValueError(
            "the flow preserves volume, and its prior has a variance of its own; a student needs one with "
            "volume_preserving=False"
        )
