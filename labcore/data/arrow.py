"""Data sets in Arrow or Parquet files, read through Hugging Face's `datasets`; for sets too large for one file per image.

`labcore.data.arrow_files` describes the layout of such a folder, and `labcore.data.arrow_table` its columns.

Files are mapped from disk, and images are read by row number. So a step has the same batch for any number of processes and
workers, also after a run was killed. A stream with a shuffle buffer could not guarantee this.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from labcore.contents import digests
from labcore.data.arrow_files import splits_in
from labcore.data.arrow_table import classes_and_labels, open_table
from labcore.data.picture import (
    PICTURE_VERSION,
    WHITE,
    Crop,
    background_identity,
    check_how,
    is_grey,
    read_picture,
    why,
)
from labcore.data.picture_set import PictureSet, with_values
from labcore.spread import spread_rows

LOOKED_AT = 64
"""Number of evenly spread rows that are opened to find out whether a set is grey or RGB; our choice."""


class ArrowData(PictureSet):
    """A split of a folder of Arrow or Parquet files: a `labcore.data.protocol.Dataset` that reads its rows from disk.

    An item is a uint8 picture (channels, image_size, image_size) with its label. Images come from the only column of images.
    Labels come from the only ClassLabel column, or else from a column of whole numbers named "label". The classes are those
    of the train split. Whole numbers without names become labels 0, 1, ... in their order, and the numbers are the names of
    the classes.

    Args:
        path: the folder, laid out as `labcore.data.arrow_files` describes.
        split: "train" or "test".
        image_size: side of the pictures in pixels.
        channels: 1 (grey) or 3 (RGB). None (default): the channels of the pictures; up to 64 are opened, and they must
            agree.
        crop: how a picture becomes a square, see `labcore.data.picture`; default "fit".
        background: colour behind transparent pixels, see `labcore.data.picture.colour_of`; default white.

    Raises:
        ValueError: the folder has another layout, columns are missing or not unique, files or labels are missing, the splits
            have different classes, or the package `datasets` is not installed.
    """

    decodes = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str,
        image_size: int,
        channels: int | None = None,
        crop: Crop = "fit",
        background: str = WHITE,
    ) -> None:
        check_how(image_size, channels, crop, background)
        self.path, self.split, self.image_size, self.crop = Path(path), split, image_size, crop
        self.background = background
        self.name = self.path.resolve().name
        splits = splits_in(self.path)
        table = open_table(self.path, splits, split)
        self._files, self._image = table.files, table.image
        self.classes, self.labels = classes_and_labels(table, splits)
        self._chosen: tuple[str, ...] = ()  # hashes of the indices given to `subset`, in order
        self._rows = table.undecoded()
        self.channels = self._found_channels() if channels is None else channels

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = f"{self.channels}x{self.image_size}x{self.image_size}"
        return f"ArrowData({self.name!r}, {self.split!r}: {len(self):,} of {size}, {self.num_classes} classes)"

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "c s s"], int]:
        """Read one image (c, s, s) and its label. Raises ValueError that names the row if it cannot be read."""
        images, labels = self.__getitems__([index])
        return images[0], int(labels[0])

    def __getitems__(
        self, indices: Sequence[int] | Int[Tensor, " b"]
    ) -> tuple[UInt8[Tensor, "b c s s"], Int64[Tensor, " b"]]:
        """Read a batch: images (b, c, s, s) and labels (b,). A DataLoader calls this; its collate_fn must be the identity."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        images = [
            read_picture(self.source(i), self.image_size, self.channels, self.crop, self._called(i), self.background)
            for i in index.tolist()
        ]
        return torch.stack(images), self.labels[index]

    def source(self, index: int) -> io.BytesIO:
        """Open the picture file of a row. Raises ValueError that names the row if it has none."""
        found = self._rows[index][self._image] or {}
        if found.get("bytes") is not None:
            return io.BytesIO(found["bytes"])
        try:
            return io.BytesIO((self.path / _inside(found["path"])).read_bytes())
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"{self._called(index)} has no picture ({error}); remove the row, or add its file"
            ) from None

    def _called(self, index: int) -> str:
        return f"row {index} of {self.path} {self.split}"

    def _found_channels(self) -> int:
        """Return 1 or 3, from evenly spread rows. Raises ValueError if they are mixed, or if one is not a picture."""
        grey, colour = [], []
        for row in spread_rows(len(self), LOOKED_AT):
            (grey if self._is_grey(row) else colour).append(row)
        if grey and colour:
            raise ValueError(
                f"{self.path} mixes grey pictures (row {grey[0]}) and RGB ones (row {colour[0]}); choose "
                "channels 1 or 3 for all of them (--channels on the command line)"
            )
        return 1 if grey else 3

    def _is_grey(self, row: int) -> bool:
        from PIL import Image

        try:
            with Image.open(self.source(row)) as image:
                return is_grey(image.mode)
        except Exception as error:  # as in read_picture
            raise ValueError(
                f"{self._called(row)} cannot be read as an image ({why(error)}); remove the row"
            ) from error

    def subset(self, indices: Sequence[int] | Int[Tensor, " m"]) -> ArrowData:
        """Return the images at `indices`, in that order, with the same name, split and classes. Raises IndexError."""
        index = torch.as_tensor(indices)
        chosen = (*self._chosen, hashlib.sha256(index.numpy().tobytes()).hexdigest())
        return with_values(self, labels=self.labels[index], _rows=self._rows.select(index.tolist()), _chosen=chosen)

    def fingerprint(self) -> str:
        """Return 16 hex digits of a sha256 over labels, settings of reading, and names and contents of files.

        The settings are split, size, channels, classes, crop and background.

        Pictures in files of their own are included. The location and name of the folder are not. Each file is read once
        (`labcore.contents` keeps the hashes).
        """
        return self._fingerprint((), self._contents())

    def named_fingerprint(self) -> str:
        """Return the fingerprint of versions that included the folder's name."""
        return self._fingerprint((self.name,), self._contents())

    def _contents(self) -> tuple[Any, ...]:
        """Return (name, hash) of all files, with names relative to the folder, and the hashes of subsets' indices."""
        files = [os.path.relpath(file, self.path) for file in self._files] + self._beside()
        return (*zip(files, digests(self.path, files), strict=True), *self._chosen)

    def older_fingerprint(self) -> str:
        """Return the fingerprint of the first versions, which used the lengths of the table's files, not their contents."""
        sizes = ((file.name, file.stat().st_size) for file in self._files)
        return self._fingerprint((self.name,), (*sizes, *self._chosen))

    def _fingerprint(self, name: tuple[str, ...], sources: tuple[Any, ...]) -> str:
        header: tuple[Any, ...] = (*name, self.split, self.image_size, self.channels, self.classes, self.crop, sources)
        header += background_identity(self.background)
        if PICTURE_VERSION != 1:
            header += (PICTURE_VERSION,)
        digest = hashlib.sha256(repr(header).encode())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _beside(self) -> list[str]:
        """List the relative paths of the pictures that have a file of their own, where the file exists."""
        import pyarrow.compute

        paths: dict[str | None, None] = {}  # each once, in the order of the table
        for part in self._rows.data.column(self._image).chunks:
            without_bytes = pyarrow.compute.is_null(part.field("bytes"))
            paths |= dict.fromkeys(part.field("path").filter(without_bytes).to_pylist())
        return [path for path in paths if path and _is_inside(path) and (self.path / path).is_file()]


def _is_inside(path: str) -> bool:
    """Return whether a path is relative and has no ".." part. With one, a path through a link could leave the folder."""
    return not os.path.isabs(path) and ".." not in Path(path).parts


def _inside(path: str) -> str:
    """Return the path of a picture, relative to the folder. Raises ValueError if it leaves the folder."""
    if not _is_inside(path):
        raise ValueError(f"its path {path!r} leaves the folder")
    return path
