"""The protocol of data sets: all data sets of the lab satisfy it, and functions that take a data set require it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from labcore.reading import Images
from labcore.rng import StepNoise


@runtime_checkable
class Dataset(Images, Protocol):
    """Labelled pictures, or their latents, for training and evaluation.

    `__getitems__` reads a batch of items: uint8 pictures (b, c, h, w), or raw latents of pictures. `floats` and
    `to_model_input` convert a batch of items to the input of a model.

    Attributes:
        labels: int64 (n,), the class number of each item; -1 for an item without a class, as drawn pictures
            may be.
        classes: the name of each class, in the order of the numbers.
        image_size: side of a model's input, in pixels or latent values; (height, width) if it is not square, as in
            `TarFlowConfig`.
        channels: channels of a model's input.
        pictures: the data set of uint8 pictures that the items come from; the data set itself if its items are pictures.
    """

    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]

    @property
    def num_classes(self) -> int: ...

    @property
    def image_size(self) -> int | tuple[int, int]: ...

    @property
    def channels(self) -> int: ...

    @property
    def pictures(self) -> Dataset: ...

    def subset(self, indices: Sequence[int] | Int[Tensor, " m"]) -> Dataset:
        """Return the items at `indices`, in that order, with the same name, split and classes."""

    def older_fingerprint(self) -> str | None:
        """Return the fingerprint of the first versions, which used files' names and lengths; None if it was the same."""

    def floats(self, items: Tensor) -> Float[Tensor, "b c h w"]:
        """Convert a batch of items to the input of a model, for evaluation."""

    def to_model_input(
        self, items: Tensor, noise: StepNoise, mirror: bool = False
    ) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
        """Convert a batch of items to the input of a training step; return it, and which items (b,) are mirrored.

        noise: random numbers of the step. mirror: True mirrors each item with probability 1/2; default False.
        """
