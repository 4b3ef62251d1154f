"""A data set of images as one of their latents: what a flow of latents is trained on and measured with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from labcore.data.picture_set import with_values
from labcore.data.protocol import Dataset
from labcore.files import sha256_of
from labcore.latents.codec import Codec
from labcore.latents.store import cached_raw
from labcore.progress import Progress
from labcore.rng import StepNoise


class LatentData:
    """The latents of `images`, which are kept as `pictures`: a `labcore.data.Dataset`.

    An item is (v, r, h, w): raw latents of the image and, where `mirror` is true, of the mirrored one. `to_model_input` makes
    of items what a training step sees, drawn anew in every step; `floats` makes what an evaluation sees, their mean. The
    first use encodes all images and keeps raw latents on disk (`cached_raw`, whose arguments and errors are these).
    """

    decodes = False

    def __init__(
        self,
        codec: Codec,
        images: Dataset,
        mirror: bool = False,
        root: str | Path | None = None,
        progress: Progress | None = None,
    ):
        self.codec, self.pictures, self.mirror = codec, images, mirror
        self.name, self.split = images.name, images.split
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

    def __getitems__(self, indices: Sequence[int] | Int[Tensor, " b"]) -> tuple[Float[Tensor, "b v r h w"], Tensor]:
        """A batch of raw latents as they lie on disk, and the labels."""
        index, first = torch.as_tensor(indices, dtype=torch.int64), self._raw[0]
        rows = self._rows[index]
        items = torch.empty(len(rows), len(self._raw), *first.shape[1:], dtype=first.dtype)
        for number, raw in enumerate(self._raw):  # not torch.stack, which autocast on a CPU refuses for float16
            items[:, number] = raw[rows]
        return items, self.labels[index]

    def subset(self, indices: Sequence[int] | Int[Tensor, " m"]) -> LatentData:
        """The images at `indices`, in that order, under the same name, split and classes; nothing is encoded again."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        pictures = self.pictures.subset(indices)
        return with_values(self, pictures=pictures, labels=self.labels[index], _rows=self._rows[index])

    @property
    def num_classes(self) -> int:
        return len(self.classes)

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

    def named_fingerprint(self) -> str | None:
        """The same with the named fingerprint of the images; None where they have none."""
        named = self.pictures.named_fingerprint()
        return None if named is None else self._fingerprint(named)

    def older_fingerprint(self) -> str | None:
        """The same with the older fingerprint of the images; None where they have none."""
        older = self.pictures.older_fingerprint()
        return None if older is None else self._fingerprint(older)

    def _fingerprint(self, pictures: str) -> str:
        return sha256_of([pictures, self.codec.recipe()])[:16]

    def floats(self, items: Float[Tensor, "b v r h w"]) -> Float[Tensor, "b c h w"]:
        """Final latents of images as they are, at their mean."""
        return self.codec.final(items[:, 0])

    def to_model_input(
        self, items: Float[Tensor, "b v r h w"], noise: StepNoise, mirror: bool = False
    ) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
        """Final latents of a training step, drawn from the autoencoder's posterior; and which are of mirrored images.

        mirror: mirror each with probability 1/2. Raises ValueError where mirrored images were not encoded.
        """
        if mirror and not self.mirror:
            raise ValueError("mirror was True for latents of unmirrored images alone; make LatentData with mirror=True")
        mirrored = torch.zeros(len(items), dtype=torch.bool, device=items.device)
        if mirror:
            mirrored = noise.uniform("flip") < 0.5
        raw = items[torch.arange(len(items), device=items.device), mirrored.long()]
        eps = noise.normal("latents", (self.channels, *raw.shape[2:]))
        return self.codec.final(raw, eps), mirrored
