"""Data sets by name: `load("fashion-mnist-12k", "train")`.

    fashion-mnist-12k   10,000 + 2,000 images, 28x28 grey, 10 classes; ships with labcore, the lab's default
    fashion-mnist       the full 60,000 + 10,000, from IDX files (labcore.data.fashion_mnist says where they come from)
    folder              your own images: one folder a class (labcore.data.folder), or the Arrow or Parquet files of Hugging
                        Face's datasets (labcore.data.arrow)

Each split is "train" or "test".
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from labcore.config import DataConfig
from labcore.data import embedded, fashion_mnist
from labcore.data.arrow import ArrowData, is_arrow
from labcore.data.folder import ImageFolderData
from labcore.data.images import ImageData, resize, to_channels
from labcore.data.picture import CROPS, Crop
from labcore.data.picture_set import with_values
from labcore.data.protocol import Dataset
from labcore.rng import generator
from labcore.spread import spread

NAMES = ("fashion-mnist-12k", "fashion-mnist", "folder")


class Data(NamedTuple):
    """Where images come from: the arguments of `load` but the split."""

    name: str
    path: str | None = None
    image_size: int | None = None
    channels: int | None = None
    crop: Crop | None = None

    @classmethod
    def of(cls, config: DataConfig) -> Data:
        """The images of a run's configuration, all of them: `limit` and `flip` are the training's."""
        return cls(**{field: getattr(config, field) for field in cls._fields})

    def split(self, split: str) -> Dataset:
        """The images of "train" or "test"; raises as `load`."""
        return load(self.name, split, self.path, self.image_size, self.channels, self.crop)

    def __str__(self) -> str:
        size = "" if self.image_size is None else f", {self.image_size} pixels"
        return f"{self.name if self.path is None else self.path}{size}{f', crop {self.crop}' if self.crop else ''}"


def load(
    name: str = "fashion-mnist-12k",
    split: str = "train",
    path: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    crop: Crop | None = None,
) -> ImageData | ImageFolderData | ArrowData:
    """One split of a data set.

    path: "fashion-mnist": a folder with IDX files (None: look for them); "folder": that of class folders or of Arrow files.
    image_size: pixels; None keeps the set's own. Sets in memory are resized bilinearly with antialiasing, rounded and
    clamped to uint8 (labcore.data.images.resize); "folder" needs it and resizes each file as it is read.
    channels: 1 or 3; None keeps the set's own. Grey becomes RGB by repeating, RGB becomes grey by ITU-R BT.601 luma.
    crop: of "folder", how its pictures become squares (labcore.data.picture); None is "fit".

    Raises ValueError for an unknown name, split or size; FileNotFoundError if the files are missing.
    """
    if name not in NAMES:
        raise ValueError(f"data set {name!r} is unknown; the names are {', '.join(map(repr, NAMES))}.")
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}: data sets have 'train' and 'test'.")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size}: give the side of the images in pixels, 1 or more.")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: give 1 (grey), 3 (RGB), or None to keep the set's own.")
    if crop is not None and (name != "folder" or crop not in CROPS):
        raise ValueError(
            f"crop={crop!r} for {name!r}: 'folder' takes {', '.join(CROPS)}, the others are square already."
        )

    if name == "folder":
        if path is None or image_size is None:
            raise ValueError(
                f"data set 'folder' was given path={path!r}, image_size={image_size}; it needs both: the folder that "
                "holds the class folders, and the side in pixels to bring its images to."
            )
        return (ArrowData if is_arrow(path) else ImageFolderData)(path, split, image_size, channels, crop or "fit")
    if name == "fashion-mnist":
        data = _in_memory(*fashion_mnist.read(fashion_mnist.find(path), split), name, split)
    elif path is not None:
        raise ValueError(
            f"path={str(path)!r} was given, but {name!r} ships with labcore; leave path out, or load 'fashion-mnist' "
            "(IDX files) or 'folder' (class folders) from it."
        )
    else:
        data = _in_memory(*embedded.read(split), name, split)

    images = data.images
    if image_size is not None:
        images = resize(images, image_size)
    if channels is not None:
        images = to_channels(images, channels)
    return ImageData(images, data.labels, data.classes, name, split)


def renumbered(images: Dataset, names: tuple[str, ...]) -> Dataset:
    """A data set with its labels in another order of the same classes; ValueError where `names` are not its classes."""
    if sorted(names) != sorted(images.classes):
        raise ValueError(
            f"names are {names}, and the classes of {images.name} {images.classes}; give these in any order"
        )
    labels = torch.tensor([names.index(name) for name in images.classes])[images.labels]
    return with_values(images, labels=labels, classes=names)


def to_memory(images: Dataset) -> ImageData:
    """A copy of a data set of pictures as ImageData, for small ones: it takes n * channels * image_size**2 bytes."""
    pixels, labels = images.__getitems__(range(len(images)))
    return ImageData(pixels, labels, images.classes, images.name, images.split)


def mixed(images: Dataset, most: int | None, seed: int) -> ImageData:
    """Up to `most` pictures, evenly spread, in memory and in a random order, so that any first ones are of all classes."""
    in_memory = to_memory(spread(images, most))
    return in_memory.subset(torch.randperm(len(in_memory), generator=generator(seed, "mixed", in_memory.split)))


def _in_memory(images: UInt8[np.ndarray, "n h w"], labels: UInt8[np.ndarray, " n"], name: str, split: str) -> ImageData:
    """Grey images and labels of Fashion-MNIST as ImageData."""
    tensors = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))
    return ImageData(*tensors, fashion_mnist.CLASSES, name, split)
