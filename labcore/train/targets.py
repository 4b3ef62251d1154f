"""Encoder tokens of a batch: computed in every step, or read from features on disk.

The encoder always sees the clean image. A mirrored image gets the tokens of the mirrored image: an encoder is not exactly
equivariant, so its tokens are computed for both and not flipped.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labcore.encoders.cache import cached_tokens
from labcore.encoders.frozen import Encoder
from labcore.progress import Progress
from labcore.reading import Images
from labcore.types import Batch


@runtime_checkable
class Targets(Protocol):
    """Encoder tokens (b, t, width) of a batch, without gradient, on the batch's device."""

    width: int
    about: str

    def __call__(self, batch: Batch) -> Tensor: ...


class Computed:
    """Tokens computed for every batch, from the same pixels that the flow sees before noise; correct for random crops too."""

    def __init__(self, encoder: Encoder, grid: int, stage: int | None = None):
        self.encoder, self.grid, self.stage = encoder, grid, stage
        self.width, self.about = encoder.token_width(grid, stage), encoder.describe(grid, stage)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        if self.encoder.device != batch.x.device:
            self.encoder.to(batch.x.device)
        with torch.autocast(batch.x.device.type, enabled=False):
            return self.encoder.tokens(batch.x, self.grid, self.stage)


class Cached:
    """Tokens of a whole data set, computed once; of mirrored images too if training mirrors."""

    def __init__(
        self,
        encoder: Encoder,
        dataset: Images,
        grid: int,
        stage: int | None = None,
        mirror: bool = False,
        progress: Progress | None = None,
    ):
        self.width, self.about = encoder.token_width(grid, stage), encoder.describe(grid, stage) + ", cached"
        self.tokens = [
            cached_tokens(encoder, dataset, grid, stage, flipped, progress=progress)
            for flipped in ((False, True) if mirror else (False,))
        ]

    def read(self, rows: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b t width"], ...]:
        """Read tokens of images, and of mirrored ones; a loader's processes may read them with the images."""
        return tuple(tokens[rows] for tokens in self.tokens)

    def __call__(self, batch: Batch) -> Tensor:
        device = batch.x.device
        found = [_sent(tokens, device) for tokens in batch.extra or self.read(batch.index.cpu())]
        if len(found) == 1:
            return found[0]
        # always read both: only the device knows whether any image is mirrored, and asking would wait for it
        return torch.where(batch.mirrored.to(device)[:, None, None], found[1], found[0])


def _sent(x: Tensor, device: torch.device) -> Tensor:
    """Copy to a device; to a GPU from pinned memory, without waiting."""
    here = device.type == "cuda" and x.device.type == "cpu" and not x.is_pinned()
    return (x.pin_memory() if here else x).to(device, non_blocking=True)
