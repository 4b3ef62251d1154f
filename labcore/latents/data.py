"""The latents of a data set of images: the data set for training and evaluating a flow of latents."""

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
    """The latents of a data set of images: a `labcore.data.protocol.Dataset`.

    An item is (v, r, h, w): the raw latents of the image (v = 1) and, with `mirror`, of the mirrored image (v = 2).
    `to_model_input` draws final latents from items, anew in every training step; `floats` returns their mean, for evaluation.
    The first use encodes all images, and stores the raw latents on disk.

    Args:
        codec: the encoder.
        images: the data set of pictures; kept as the attribute `pictures`.
        mirror: encode mirrored images too; default False.
        root: folder of the stored latents, as in `cached_raw`.
        progress: called while images are encoded; default None.

    Raises:
        ValueError: as `cached_raw`.
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
        self._rows = torch.arange(len(images))  # item -> row of the stored latents
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
        """Read a batch of raw latents (b, v, r, h, w) in the dtype of the store, and the labels (b,)."""
        index, first = torch.as_tensor(indices, dtype=torch.int64), self._raw[0]
        rows = self._rows[index]
        items = torch.empty(len(rows), len(self._raw), *first.shape[1:], dtype=first.dtype)
        for number, raw in enumerate(self._raw):  # not torch.stack, which autocast on a CPU refuses for float16
            items[:, number] = raw[rows]
        return items, self.labels[index]

    def subset(self, indices: Sequence[int] | Int[Tensor, " m"]) -> LatentData:
        """Return the items at `indices`, in that order, with the same name, split and classes; nothing is encoded again."""
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
        """Side of the latents, in values."""
        return self.pictures.image_size // self.codec.factor

    def fingerprint(self) -> str:
        """Return 16 hex digits of a sha256 over the images' fingerprint and the autoencoder's recipe."""
        return self._fingerprint(self.pictures.fingerprint())

    def named_fingerprint(self) -> str | None:
        """Return `fingerprint` with the images' named fingerprint; None if they have none."""
        named = self.pictures.named_fingerprint()
        return None if named is None else self._fingerprint(named)

    def older_fingerprint(self) -> str | None:
        """Return `fingerprint` with the images' older fingerprint; None if they have none."""
        older = self.pictures.older_fingerprint()
        return None if older is None else self._fingerprint(older)

    def _fingerprint(self, pictures: str) -> str:
        return sha256_of([pictures, self.codec.recipe()])[:16]

    def floats(self, items: Float[Tensor, "b v r h w"]) -> Float[Tensor, "b c h w"]:
        """Return the mean final latents (b, c, h, w) of the images that are not mirrored."""
        return self.codec.final(items[:, 0])

    def to_model_input(
        self, items: Float[Tensor, "b v r h w"], noise: StepNoise, mirror: bool = False
    ) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
        """Draw final latents (b, c, h, w) for a training step; return them, and which are of mirrored images (b,).

        mirror: True mirrors each image with probability 1/2; default False. Raises ValueError if mirrored images were not
        encoded.
        """
        if mirror and not self.mirror:
            raise ValueError("mirror was True, but mirrored images were not encoded; make LatentData with mirror=True")
        mirrored = torch.zeros(len(items), dtype=torch.bool, device=items.device)
        if mirror:
            mirrored = noise.uniform("flip") < 0.5
        raw = items[torch.arange(len(items), device=items.device), mirrored.long()]
        eps = noise.normal("latents", (self.channels, *raw.shape[2:]))
        return self.codec.final(raw, eps), mirrored
