"""Data sets by name: `load("fashion-mnist-12k", "train")`.

    fashion-mnist-12k   10,000 + 2,000 images, 28x28 grey, 10 classes; ships with labcore, the lab's default
    fashion-mnist       the full 60,000 + 10,000, from IDX files (labcore.data.fashion_mnist says where they come from)
    emoji-32            3,641 emoji, 32x32 RGB on white, 9 classes; ships with labcore (labcore.data.emoji)
    emoji               the same at any size up to 128, from the font of Debian's fonts-noto-color-emoji
    folder              your own images: one folder per class (labcore.data.folder), or the Arrow or Parquet files of Hugging
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
from labcore.data import embedded, emoji, fashion_mnist
from labcore.data.arrow import ArrowData
from labcore.data.arrow_files import is_arrow
from labcore.data.emoji.font import LARGEST, EmojiFont, find_font
from labcore.data.folder import ImageFolderData
from labcore.data.images import ImageData, resize, to_channels
from labcore.data.picture import CROPS, WHITE, Crop
from labcore.data.picture_set import with_values
from labcore.data.protocol import Dataset
from labcore.data.splits import SplitRule, chosen_rule
from labcore.rng import generator
from labcore.spread import spread

NAMES = ("fashion-mnist-12k", "fashion-mnist", "emoji-32", "emoji", "folder")
SHIPPED = ("fashion-mnist-12k", "emoji-32")
"""Data sets whose files are in labcore."""

OF_FOLDERS = ("crop", "background", "test_share", "split_seed")
"""Settings that say how a folder of pictures is read."""


class Data(NamedTuple):
    """Source of images: the arguments of `load`, except the split; see there."""

    name: str
    path: str | None = None
    image_size: int | None = None
    channels: int | None = None
    crop: Crop | None = None
    background: str | None = None
    test_share: float | None = None
    split_seed: int | None = None

    @classmethod
    def of(cls, config: DataConfig) -> Data:
        """Return the source of a run's images. `limit` and `flip` are left out, because only training uses them."""
        return cls(**{field: getattr(config, field) for field in cls._fields})

    def split(self, split: str) -> Dataset:
        """Load the images of "train" or "test". Raises as `load`."""
        return load(self.name, split, *self[1:])

    def __str__(self) -> str:
        size = "" if self.image_size is None else f", {self.image_size} pixels"
        said = [f", {name} {getattr(self, name)}" for name in OF_FOLDERS if getattr(self, name) is not None]
        return f"{self.name if self.path is None else self.path}{size}{''.join(said)}"


def load(
    name: str = "fashion-mnist-12k",
    split: str = "train",
    path: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    crop: Crop | None = None,
    background: str | None = None,
    test_share: float | None = None,
    split_seed: int | None = None,
) -> ImageData | ImageFolderData | ArrowData:
    """Load one split of a data set.

    Args:
        name: one of NAMES, see the module; default "fashion-mnist-12k".
        split: "train" (default) or "test".
        path: for "fashion-mnist", a folder with IDX files, where None (default) searches for them; for "folder", the folder
            with class folders, or with Arrow or Parquet files; for "emoji", the font, where None (default) searches for it.
        image_size: side in pixels; None (default) keeps the data set's own side. "folder" requires a side. Sets in memory are
            resized bilinearly (`labcore.data.images.resize`), a folder's pictures and "emoji" when they are read.
            For "emoji", None means 128 pixels.
        channels: 1 (grey) or 3 (RGB); None (default) keeps the data set's own. Grey is repeated to RGB; RGB becomes grey
            by ITU-R BT.601 luma.
        crop: how the pictures of a "folder" become squares (`labcore.data.picture`); None (default) is "fit".
        background: colour behind transparent pixels of a "folder", by name or as #rrggbb; None (default) is white.
        test_share: share of the files of each class that are test images, for a "folder" without splits; None (default) is 0.1.
        split_seed: random seed that shuffles the files of each class first (`labcore.data.splits.SplitRule`), for a "folder"
            without splits; None (default) keeps the sorted order.

    Raises:
        ValueError: name, split, size, channels or crop are not allowed, or files are damaged or not laid out as required.
        FileNotFoundError: files are missing.
    """
    if name not in NAMES:
        raise ValueError(f"data set {name!r} is unknown; allowed are {', '.join(map(repr, NAMES))}")
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}: data sets have 'train' and 'test'")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size}: give the side of the images in pixels, 1 or more")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: give 1 (grey), 3 (RGB), or None to keep the data set's own")
    if crop is not None and (name != "folder" or crop not in CROPS):
        raise ValueError(
            f"crop={crop!r} for {name!r}: 'folder' takes {', '.join(CROPS)}; the other data sets are square, leave crop out"
        )
    of_folders = dict(background=background, test_share=test_share, split_seed=split_seed)
    if name != "folder" and (given := {key: value for key, value in of_folders.items() if value is not None}):
        said = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise ValueError(f"{said} for {name!r}: these settings are for pictures in a 'folder'; leave them out")

    if name == "folder":
        if path is None or image_size is None:
            raise ValueError(
                f"data set 'folder' was given path={path!r}, image_size={image_size}; it needs both: the folder that "
                "holds the class folders, and the side in pixels to which its images are resized"
            )
        behind = WHITE if background is None else background
        rule = chosen_rule(test_share, split_seed)
        return _folder(path, split, image_size, channels, crop or "fit", behind, rule)
    if path is not None and name in SHIPPED:
        raise ValueError(
            f"path={str(path)!r} was given, but {name!r} ships with labcore; leave path out, or load 'fashion-mnist' "
            "(IDX files), 'emoji' (a font) or 'folder' (class folders) from it"
        )
    if name == "emoji-32" and image_size is not None and image_size > emoji.SIDE:
        raise ValueError(
            f"image_size={image_size}: 'emoji-32' has {emoji.SIDE} pixels; load 'emoji', which has up to 128"
        )
    data = _named(name, split, path, image_size)

    images = data.images
    if image_size is not None:
        images = resize(images, image_size)
    if channels is not None:
        images = to_channels(images, channels)
    return ImageData(images, data.labels, data.classes, name, split)


def renumbered(images: Dataset, names: tuple[str, ...]) -> Dataset:
    """Return the data set with its classes in the order of `names`. Raises ValueError if these are not its classes."""
    if sorted(names) != sorted(images.classes):
        raise ValueError(
            f"names are {names}; the classes of {images.name} are {images.classes}. Give the same names, in any order"
        )
    labels = torch.tensor([names.index(name) for name in images.classes])[images.labels]
    return with_values(images, labels=labels, classes=names)


def to_memory(images: Dataset) -> ImageData:
    """Copy a data set of pictures into memory; it takes n * channels * image_size**2 bytes."""
    pixels, labels = images.__getitems__(range(len(images)))
    return ImageData(pixels, labels, images.classes, images.name, images.split)


def mixed(images: Dataset, most: int | None, seed: int) -> ImageData:
    """Copy up to `most` evenly spread pictures (None: all) into memory, in a random order that `seed` determines.

    In this order, the first few pictures have different classes.
    """
    in_memory = to_memory(spread(images, most))
    return in_memory.subset(torch.randperm(len(in_memory), generator=generator(seed, "mixed", in_memory.split)))


def _named(name: str, split: str, path: str | os.PathLike[str] | None, image_size: int | None) -> ImageData:
    """Return a data set in memory by its name. Only "emoji" is drawn at image_size; other data sets keep their own size."""
    if name == "fashion-mnist":
        return _in_memory(*fashion_mnist.read_split(fashion_mnist.find_folder(path), split), name, split)
    if name == "fashion-mnist-12k":
        return _in_memory(*embedded.read_split(split), name, split)
    if name == "emoji-32":
        pictures, labels = emoji.read_split(split)
        return ImageData(
            torch.from_numpy(pictures), torch.from_numpy(labels.astype(np.int64)), emoji.CLASSES, name, split
        )
    chosen = [each for each in emoji.entries() if each.split == split]
    font = EmojiFont(find_font(path))
    pictures = font.pictures([each.code_points for each in chosen], LARGEST if image_size is None else image_size)
    return ImageData(pictures, torch.tensor([each.label for each in chosen]), emoji.CLASSES, name, split)


def _folder(
    path: str | os.PathLike[str],
    split: str,
    image_size: int,
    channels: int | None,
    crop: Crop,
    background: str,
    rule: SplitRule | None,
) -> ImageFolderData | ArrowData:
    """Return a data set in a folder: class folders, or Arrow or Parquet files."""
    if not is_arrow(path):
        return ImageFolderData(path, split, image_size, channels, crop, background, rule)
    if rule is not None:
        raise ValueError(
            f"{path} holds Arrow or Parquet files, which have splits of their own; leave test_share and split_seed out"
        )
    return ArrowData(path, split, image_size, channels, crop, background)


def _in_memory(images: UInt8[np.ndarray, "n h w"], labels: UInt8[np.ndarray, " n"], name: str, split: str) -> ImageData:
    """Return grey images and labels of Fashion-MNIST as ImageData."""
    tensors = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))
    return ImageData(*tensors, fashion_mnist.CLASSES, name, split)
