"""What data sets of uint8 pictures have in common (`labcore.data.protocol`), and those that hold their pictures in one tensor.

Pictures stay uint8 until a model sees them; scaling to [-1, 1], mirroring and noise happen there, not here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

from labcore.data import transforms
from labcore.rng import StepNoise

D = TypeVar("D")


class PictureSet:
    """A data set whose items are uint8 pictures (c, h, w). A subclass has the names of the classes, and reads the items."""

    decodes = False
    """Whether reading a picture costs time."""
    classes: tuple[str, ...]
    labels: Int64[Tensor, " n"]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def pictures(self) -> PictureSet:
        """The data set itself: its items are pictures."""
        return self

    def named_fingerprint(self) -> str | None:
        """None: earlier versions made the same fingerprint."""
        return None

    def older_fingerprint(self) -> str | None:
        """None: earlier versions made the same fingerprint."""
        return None

    def floats(self, items: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The pictures in [-1, 1], as an evaluation sees them."""
        return transforms.to_float(items)

    def to_model_input(
        self, items: UInt8[Tensor, "b c h w"], noise: StepNoise, mirror: bool = False
    ) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
        """The pictures as a training step sees them, and which are mirrored: `labcore.data.transforms.to_model_input`."""
        return transforms.to_model_input(items, noise, mirror)


class HeldPictures(PictureSet):
    """A data set that holds its pictures in one tensor: images uint8 (n, c, h, w), labels int64 (n,)."""

    images: UInt8[Tensor, "n c h w"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "c h w"], int]:
        """One image (c, h, w), a view, and its label."""
        return self.images[index], int(self.labels[index])

    def __getitems__(
        self, indices: Sequence[int] | Int[Tensor, " b"]
    ) -> tuple[UInt8[Tensor, "b c h w"], Int64[Tensor, " b"]]:
        """A batch in one indexing operation. DataLoader calls this and hands the result to its collate_fn, which must
        therefore be the identity (the batch is collated already)."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self.images[index], self.labels[index]

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Side of the square images, in pixels."""
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def subset(self: D, indices: Sequence[int] | Int[Tensor, " m"]) -> D:
        """The images at `indices`, in that order, under the same name, split and classes.

        Raises ValueError if there are none, or one is outside -n..n-1, or they are not integers (a mask, say).
        """
        index = torch.as_tensor(indices)
        if index.numel() == 0:
            raise ValueError("subset: no indices were given; give at least one.")
        if index.dtype == torch.bool or index.is_floating_point() or index.ndim != 1:
            raise ValueError(
                f"subset: indices are {index.dtype} of shape {tuple(index.shape)}; they must be a list of integers. "
                "Turn a mask into indices with mask.nonzero().flatten()."
            )
        if int(index.min()) < -len(self) or int(index.max()) >= len(self):
            raise ValueError(
                f"subset: indices run from {int(index.min())} to {int(index.max())}, but the set has {len(self)} "
                f"images; use 0 to {len(self) - 1}."
            )
        images, labels = self.__getitems__(index)
        return with_values(self, images=images, labels=labels)


def with_values(images: D, /, **values: object) -> D:
    """A copy of a data set with other values of some attributes, whether or not its class is frozen."""
    part = copy.copy(images)
    vars(part).update(values)
    return part
