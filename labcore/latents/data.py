"""A data set of images as one of their latents: what a flow of latents is trained on and measured with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from labcore.files import sha256_of
from labcore.latents.codec import Codec
from labcore.latents.store import cached_raw
from labcore.progress import Progress
from labcore.rng import StepNoise


class LatentData:
    """The latents of `images`, kept as `pictures`, with the interface of a data set: name, split, classes, sizes, batches.

    An item is (v, r, h, w): raw latents of the image and, where `mirror` is, of the mirrored one. `prepare` makes of them what
    a training step sees, drawn anew in every step; `floats` what an evaluation sees, their mean. The first use encodes all
    images and keeps raw latents on disk (`cached_raw`, whose arguments and errors are these).
    """

    def __init__(
        self,
        codec: Codec,
        images: Any,
        mirror: bool = False,
        root: str | Path | None = None,
        progress: Progress | None = None,
    ):
        self.codec, self.pictures, self.mirror = codec, images, mirror
        self.name, self.split, self.num_classes = images.name, images.split, images.num_classes
        self.classes, self.labels = images.classes, images.labels
        self._rows = torch.arange(len(images))  # of the raw latents
        side = images.image_size
        self._raw = [
            cached_raw(codec, images, side, flipped, root, progress=progress)
            for flipped in ((False, True) if mirror else (False,))
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        items, labels = self.__getitems__([index])
        return items[0], int(labels[0])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Float[Tensor, "b v r h w"], Tensor]:
        """A batch of raw latents as they lie on disk, and the labels."""
        index, first = torch.as_tensor(indices, dtype=torch.int64), self._raw[0]
        rows = self._rows[index]
        items = torch.empty(len(rows), len(self._raw), *first.shape[1:], dtype=first.dtype)
        for number, raw in enumerate(self._raw):  # not torch.stack, which autocast on a CPU refuses for float16
            items[:, number] = raw[rows]
        return items, self.labels[index]

    def subset(self, indices: Sequence[int]) -> LatentData:
        """The images at `indices`, in that order, under the same name, split and classes; nothing is encoded again."""
        part, index = copy.copy(self), torch.as_tensor(indices, dtype=torch.int64)
        part.pictures, part.labels, part._rows = self.pictures.subset(indices), self.labels[index], self._rows[index]
        return part

    @property
    def channels(self) -> int:
        return self.codec.channels

    @property
    def image_size(self) -> int:
        """Values along a side of the latents."""
        return self.pictures.image_size // self.codec.factor

    def fingerprint(self) -> str:
        """Equal images and equal autoencoder, equal digits."""
        return self._fingerprint(self.pictures.fingerprint())

    def named_fingerprint(self) -> str:
        """The same with the named fingerprint of images that have one."""
        return self._fingerprint(getattr(self.pictures, "named_fingerprint", self.pictures.fingerprint)())

    def older_fingerprint(self) -> str:
        """The same with the older fingerprint of images that have one."""
        return self._fingerprint(getattr(self.pictures, "older_fingerprint", self.pictures.fingerprint)())

    def _fingerprint(self, pictures: str) -> str:
        return sha256_of([pictures, self.codec.recipe()])[:16]

    def floats(self, items: Float[Tensor, "b v r h w"]) -> Float[Tensor, "b c h w"]:
        """Final latents of images as they are, at their mean."""
        return self.codec.final(items[:, 0])

    def prepare(
        self, items: Float[Tensor, "b v r h w"], noise: StepNoise
    ) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
        """Final latents of a training step, drawn from the autoencoder's posterior; mirrored with probability 1/2."""
        mirrored = torch.zeros(len(items), dtype=torch.bool, device=items.device)
        if self.mirror:
            mirrored = noise.uniform("flip") < 0.5
        raw = items[torch.arange(len(items), device=items.device), mirrored.long()]
        eps = noise.normal("latents", (self.channels, *raw.shape[2:]))
        return self.codec.final(raw, eps), mirrored
