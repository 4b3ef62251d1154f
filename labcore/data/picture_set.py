"""Base classes of data sets of uint8 pictures: one for any such data set, and one for pictures in one tensor.

Pictures stay uint8 until they are converted for a model. `floats` and `to_model_input` scale them to [-1, 1]; noise is added
later, by the objective.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

from labcore.data import transforms
from labcore.rng import StepNoise

D = TypeVar("D")


class PictureSet:
    """A data set whose items are uint8 pictures (c, h, w). A subclass sets `classes` and `labels`, and reads the items."""

    decodes = False
    """Whether reading a picture decodes a file, which takes time."""
    classes: tuple[str, ...]
    labels: Int64[Tensor, " n"]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def pictures(self) -> PictureSet:
        """Return the data set itself, because its items are pictures."""
        return self

    def named_fingerprint(self) -> str | None:
        """Return None: earlier versions had the same fingerprint."""
        return None

    def older_fingerprint(self) -> str | None:
        """Return None: earlier versions had the same fingerprint."""
        return None

    def contents(self) -> list[str] | None:
        """Return a hash of each picture, to find equal pictures; None if hashing would take long."""
        return None

    def floats(self, items: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Convert a batch of pictures to [-1, 1], for evaluation."""
        return transforms.to_float(items)

    def to_model_input(
        self, items: UInt8[Tensor, "b c h w"], noise: StepNoise, mirror: bool = False
    ) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
        """Convert a batch of pictures for a training step: see `labcore.data.transforms.to_model_input`."""
        return transforms.to_model_input(items, noise, mirror)


class HeldPictures(PictureSet):
    """A data set in memory: images uint8 (n, c, h, w), labels int64 (n,)."""

    images: UInt8[Tensor, "n c h w"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "c h w"], int]:
        """Return one image (c, h, w), as a view, and its label."""
        return self.images[index], int(self.labels[index])

    def __getitems__(
        self, indices: Sequence[int] | Int[Tensor, " b"]
    ) -> tuple[UInt8[Tensor, "b c h w"], Int64[Tensor, " b"]]:
        """Return a batch: images (b, c, h, w) and labels (b,). A DataLoader calls this; its collate_fn must be the identity."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self.images[index], self.labels[index]

    def contents(self) -> list[str]:
        """Return a hash of the pixels of each picture; equal pictures have equal hashes."""
        return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in self.images.cpu()]

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Side of the square images, in pixels."""
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def subset(self: D, indices: Sequence[int] | Int[Tensor, " m"]) -> D:
        """Return the images at `indices`, in that order, with the same name, split and classes.

        Raises ValueError if there are no indices, if one is outside -n..n-1, or if they are not integers, as in a mask.
        """
        index = torch.as_tensor(indices)
        if index.numel() == 0:
            raise ValueError("subset: no indices were given; give at least one")
        if index.dtype == torch.bool or index.is_floating_point() or index.ndim != 1:
            raise ValueError(
                f"subset: indices are {index.dtype} of shape {tuple(index.shape)}; they must be a list of integers. "
                "Turn a mask into indices with mask.nonzero().flatten()"
            )
        if int(index.min()) < -len(self) or int(index.max()) >= len(self):
            raise ValueError(
                f"subset: indices run from {int(index.min())} to {int(index.max())}, but the set has {len(self)} "
                f"images; use 0 to {len(self) - 1}"
            )
        images, labels = self.__getitems__(index)
        return with_values(self, images=images, labels=labels)


def with_values(images: D, /, **values: object) -> D:
    """Return a copy of a data set with some attributes replaced; works for frozen dataclasses too."""
    part = copy.copy(images)
    vars(part).update(values)
    return part
