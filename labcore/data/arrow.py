"""Data sets too large for a file an image: Arrow or Parquet files, read through Hugging Face's `datasets`, mapped from disk.

A folder is one of two kinds:

    what save_to_disk wrote       dataset_dict.json, or a folder a split with state.json
    Parquet files of its splits   train-00000-of-00294.parquet and the like, anywhere below, as ImageNet has on the hub;
                                  the first use makes Arrow files of them in datasets' cache

Any image can be asked for by its number, so that steps see the same batches as from a folder of files, however many processes
and workers there are and however often a run was killed; a stream with a buffer to shuffle in could not promise that.

Held-out images are the split "validation" or "val", or "test" where there is neither: ImageNet's test split has no labels.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from labcore.data.picture import Crop, check_how, read_picture

SPLITS = {"train": ("train",), "test": ("validation", "val", "test")}
"""Our split -> names it may have there, the first that is there counts."""
INSTALL = "pip install 'labcore[arrow]', or pip install datasets"


class ArrowData:
    """A split ("train" or "test") of such a folder, with the interface of ImageFolderData.

    Every item is uint8 (channels, image_size, image_size) with a label. The column of images is the one of that kind; the
    labels are the one column of classes, or else one of whole numbers named "label". channels: 1 or 3; None looks at the first
    image. Raises ValueError for a folder that is not laid out as above and for other columns, ImportError without `datasets`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str,
        image_size: int,
        channels: int | None = None,
        crop: Crop = "fit",
    ) -> None:
        check_how(image_size, channels, crop)
        self.path, self.split, self.image_size, self.crop = Path(path), split, image_size, crop
        self.name = self.path.resolve().name
        table, self._sources = _open(self.path, split)
        self._image, label = _columns(self.path, table)
        self.classes = _classes(table, label)
        self.labels: Int64[Tensor, "n"] = torch.as_tensor(table.with_format("numpy")[label][:], dtype=torch.int64)
        _check_labels(self.path, split, self.labels, len(self.classes))
        self._rows = _undecoded(table.select_columns([self._image]), self._image)
        self.channels = _channels(self._bytes(0)) if channels is None else channels

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = f"{self.channels}x{self.image_size}x{self.image_size}"
        return f"ArrowData({self.name!r}, {self.split!r}: {len(self):,} of {size}, {self.num_classes} classes)"

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "c s s"], int]:
        """One image (c, s, s) and its label. Raises ValueError, naming the row, if it cannot be read."""
        images, labels = self.__getitems__([index])
        return images[0], int(labels[0])

    def __getitems__(
        self, indices: Sequence[int] | Int[Tensor, "b"]
    ) -> tuple[UInt8[Tensor, "b c s s"], Int64[Tensor, "b"]]:
        """A batch. DataLoader calls this and hands the result to its collate_fn, which must be the identity."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        images = [
            read_picture(
                self._bytes(i), self.image_size, self.channels, self.crop, f"row {i} of {self.path} {self.split}"
            )
            for i in index.tolist()
        ]
        return torch.stack(images), self.labels[index]

    def _bytes(self, index: int) -> io.BytesIO:
        found = self._rows[index][self._image]
        return io.BytesIO(found["bytes"] if found["bytes"] is not None else Path(found["path"]).read_bytes())

    def subset(self, indices: Sequence[int]) -> ArrowData:
        """The images at `indices`, in that order, under the same name, split and classes; IndexError for one outside."""
        part, index = copy.copy(self), torch.as_tensor(indices)
        part.labels = self.labels[index]
        part._rows = self._rows.select(index.tolist())
        part._sources = (*self._sources, hashlib.sha256(index.numpy().tobytes()).hexdigest())
        return part

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def fingerprint(self) -> str:
        """16 hex digits of the sha256 over name, split, size, channels, classes, crop, labels, and the files' names and
        lengths. The pixels are not read: files replaced by others of equal length go unnoticed."""
        header = (self.name, self.split, self.image_size, self.channels, self.classes, self.crop, self._sources)
        digest = hashlib.sha256(repr(header).encode())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()[:16]


def is_arrow(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of Arrow or Parquet files, and not of class folders."""
    folder = Path(path)
    return folder.is_dir() and (_saved(folder) or any(True for _ in folder.rglob("*.parquet")))


def _saved(folder: Path) -> bool:
    """Whether save_to_disk wrote it: all splits, or one a folder."""
    return (folder / "dataset_dict.json").is_file() or any(folder.glob("*/state.json"))


def _open(folder: Path, split: str) -> tuple[Any, tuple[tuple[str, int], ...]]:
    """The split's table, and names and lengths of its files."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: there are {', '.join(SPLITS)}")
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"{folder} holds Arrow or Parquet files, which need the package datasets: {INSTALL}"
        ) from None
    saved = _saved(folder)
    there = {each.parent.name: [each.parent] for each in folder.glob("*/state.json")} if saved else _parquet(folder)
    name = next((name for name in SPLITS[split] if name in there), None)
    if name is None:
        raise ValueError(
            f"{folder} has no split for {split!r}, which may be called {', '.join(SPLITS[split])}; there are "
            f"{', '.join(sorted(there)) or 'none'}"
        )
    try:
        if saved:
            files = sorted(there[name][0].glob("*.arrow"))
            return datasets.load_from_disk(str(there[name][0])), _told(files)
        files = sorted(there[name])
        datasets.disable_progress_bars()
        table = datasets.load_dataset("parquet", data_files={name: [str(file) for file in files]}, split=name)
    except Exception as error:  # whatever pyarrow and datasets say of damaged files
        raise ValueError(
            f"{folder} {name} cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__}); copy it "
            "again, or write it again with datasets' save_to_disk"
        ) from error
    return table, _told(files)


def _parquet(folder: Path) -> dict[str, list[Path]]:
    """Parquet files by split: what their name begins with, or the folder they lie in."""
    names = {name for names in SPLITS.values() for name in names}
    there: dict[str, list[Path]] = {}
    for file in folder.rglob("*.parquet"):
        begins = file.name.split("-")[0].split(".")[0]
        found = begins if begins in names else file.parent.name
        if found in names:
            there.setdefault(found, []).append(file)
    return there


def _told(files: list[Path]) -> tuple[tuple[str, int], ...]:
    return tuple((file.name, file.stat().st_size) for file in files)


def _columns(folder: Path, table: Any) -> tuple[str, str]:
    """Names of the columns of images and labels; ValueError where they are not clear."""
    import datasets

    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image) or _is_encoded(feature)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [name for name in ("label",) if str(getattr(features.get(name), "dtype", "")).startswith("int")]
    for what, found in (("images", images), ("labels", labels)):
        if len(found) != 1:
            raise ValueError(
                f"{folder} has {len(found)} columns of {what} ({', '.join(found) or 'none'}) among {', '.join(features)}; one "
                "of datasets' Image and one of its ClassLabel, or whole numbers named label, are needed"
            )
    return images[0], labels[0]


def _is_encoded(feature: Any) -> bool:
    """Whether a column holds what an image column does, in a file that does not say so."""
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def _undecoded(table: Any, image: str) -> Any:
    """The table with images as the bytes of their files."""
    import datasets

    return table if _is_encoded(table.features[image]) else table.cast_column(image, datasets.Image(decode=False))


def _classes(table: Any, label: str) -> tuple[str, ...]:
    feature = table.features[label]
    if hasattr(feature, "names"):
        return tuple(feature.names)
    return tuple(str(number) for number in range(int(max(table.with_format("numpy")[label][:])) + 1))


def _check_labels(folder: Path, split: str, labels: Tensor, classes: int) -> None:
    if len(labels) == 0:
        raise ValueError(f"{folder} {split} has no images")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"{folder} {split} has labels from {int(labels.min())} to {int(labels.max())} and {classes} classes; images "
            "without a label (-1) cannot be used: take them out"
        )


def _channels(picture: io.BytesIO) -> int:
    from PIL import Image

    with Image.open(picture) as image:
        return 1 if image.mode[0] in "1LI" and image.mode != "LAB" else 3
