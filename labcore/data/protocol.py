"""What a data set is: the protocol that every data set of the lab satisfies, and that functions of data sets ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from labcore.reading import Images
from labcore.rng import StepNoise


@runtime_checkable
class Dataset(Images, Protocol):
    """Labelled pictures, or their latents, as training and evaluation read them.

    An item is what `__getitems__` reads: a uint8 picture (c, h, w), or the raw latents of a picture. `floats` and
    `to_model_input` turn a batch of items into what a model takes.

    labels: int64 (n,), the class number of each item; -1 for an item without a class, which drawn pictures may have.
    classes: the name of each class, in the order of the numbers.
    image_size: values along a side of what a model takes; (height, width) where it is not square, as in `TarFlowConfig`.
    channels: of what a model takes.
    pictures: the data set of uint8 pictures that the items are made of; the data set itself where the items are pictures.
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
        """The items at `indices`, in that order, under the same name, split and classes."""

    def older_fingerprint(self) -> str | None:
        """The fingerprint of the first versions, of files' names and lengths; None where they had the same."""

    def floats(self, items: Tensor) -> Float[Tensor, "b c h w"]:
        """What an evaluation sees of a batch of items."""

    def to_model_input(
        self, items: Tensor, noise: StepNoise, mirror: bool = False
    ) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
        """What a training step sees of a batch of items, and which of them are mirrored.

        mirror: mirror each with probability 1/2.
        """
