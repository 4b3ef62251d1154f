"""Training of a classifier: cross-entropy on images that are shifted, and sometimes blurred."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from labcore.rng import StepNoise
from labcore.train.objectives import Logs
from labcore.types import Batch

SHIFT = 2
"""Pixels by which an image may be shifted to each side; our choice."""
COARSE = 16
"""Pixels to which half of the images are reduced and enlarged again, so that small pictures are known too; our choice."""


class CrossEntropy(nn.Module):
    """Mean cross-entropy of the true classes, in nats."""

    def forward(self, model: nn.Module, batch: Batch, noise: StepNoise) -> tuple[Float[Tensor, ""], Logs]:
        x = shifted(batch.x, noise)
        x = torch.where(noise.uniform("coarse")[:, None, None, None] < 0.5, coarse(x), x)
        logits = model(x)
        loss = F.cross_entropy(logits, batch.y)
        return loss, {"accuracy": (logits.argmax(1) == batch.y).float().mean()}


def coarse(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Reduce images to COARSE pixels, and enlarge them again."""
    small = F.interpolate(x, (COARSE, COARSE), mode="bilinear", antialias=True)
    return F.interpolate(small, x.shape[-2:], mode="bilinear", antialias=True)


def shifted(x: Float[Tensor, "b c h w"], noise: StepNoise) -> Float[Tensor, "b c h w"]:
    """Shift each image by up to SHIFT pixels vertically and horizontally; new pixels are black."""
    h, w = x.shape[-2:]
    padded = F.pad(x, (SHIFT,) * 4, value=-1.0)
    by = (noise.uniform("shift", (2,)) * (2 * SHIFT + 1)).long()
    rows, columns = by[:, :1] + torch.arange(h, device=x.device), by[:, 1:] + torch.arange(w, device=x.device)
    index = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.movedim(1, -1)[index, rows[:, :, None], columns[:, None]].movedim(-1, 1)
