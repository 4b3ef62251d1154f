"""Data sets too large for a file an image: Arrow or Parquet files, read through Hugging Face's `datasets`, mapped from disk.

A folder is one of two kinds:

    what save_to_disk wrote       of a DatasetDict: dataset_dict.json, and a folder a split with state.json
    Parquet files of its splits   train-00000-of-00294.parquet and the like, or 0.parquet in a folder train, there or one
                                  folder below, as ImageNet has on the hub; the first use makes Arrow files of them in the
                                  cache of datasets

Any image can be asked for by its number, so that steps see the same batches as from a folder of files, however many processes
and workers there are and however often a run was killed; a stream with a buffer to shuffle in could not promise that.

Held-out images are the split "validation" or "val", or "test" where there is neither: ImageNet's test split has no labels.
Other usual names of splits count too (`labcore.data.splits`).
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from labcore.contents import digests
from labcore.data.picture import PICTURE_VERSION, Crop, check_how, is_grey, read_picture, why
from labcore.data.picture_set import PictureSet, with_values
from labcore.data.splits import split_of
from labcore.hints import first_line

SPLITS = {"train": ("train",), "test": ("val", "test")}
"""Our split -> what `split_of` may say of its name there, the first that is there counts."""
INSTALL = "pip install 'labcore[arrow]', or pip install datasets"
CALLED = {"train": "train, training", "test": "validation, val, test"}
LOOKED_AT = 64
"""Rows, evenly spread, whose pictures say whether a set is grey or RGB; our choice."""
SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
"""Endings by which a folder of pictures is told, where Parquet files lie in it too."""


class ArrowData(PictureSet):
    """A split ("train" or "test") of such a folder, read from its rows: a `labcore.data.Dataset`.

    Every item is uint8 (channels, image_size, image_size) with a label. The column of images is the one of that kind; the
    labels are the one column of classes, or else one of whole numbers named "label". Classes are those of the train split;
    whole numbers become 0, 1, ... in their order, and name the classes.
    channels: 1 or 3; None takes what the pictures are, some of which are looked at, and which must then be the same. Raises
    ValueError for a folder that is not laid out as above, for other columns, missing values and files, and for splits
    with different classes, and without the package `datasets`.
    """

    decodes = True  # reading an image costs time

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
        there = _splits(self.path)
        table, self._files = _open(self.path, there, split)
        self._image, label = _columns(self.path, table)
        self.classes, self.labels = _classes(self.path, there, split, table, label)
        self._chosen: tuple[str, ...] = ()  # hashes of the rows of subsets
        self._rows = _undecoded(table.select_columns([self._image]), self._image)
        self.channels = self._found_channels() if channels is None else channels

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
        self, indices: Sequence[int] | Int[Tensor, " b"]
    ) -> tuple[UInt8[Tensor, "b c s s"], Int64[Tensor, " b"]]:
        """A batch. DataLoader calls this and hands the result to its collate_fn, which must be the identity."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        images = [
            read_picture(self._file(i), self.image_size, self.channels, self.crop, self._called(i))
            for i in index.tolist()
        ]
        return torch.stack(images), self.labels[index]

    def _file(self, index: int) -> io.BytesIO:
        """The picture's file. Raises ValueError, naming the row, for a row without one."""
        found = self._rows[index][self._image] or {}
        if found.get("bytes") is not None:
            return io.BytesIO(found["bytes"])
        try:
            return io.BytesIO((self.path / _inside(found["path"])).read_bytes())
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"{self._called(index)} has no picture ({error}); take the row out, or add its file"
            ) from None

    def _called(self, index: int) -> str:
        return f"row {index} of {self.path} {self.split}"

    def _found_channels(self) -> int:
        """1 or 3, as pictures evenly spread have; ValueError where they are mixed, and for one that is none."""
        from PIL import Image

        count = min(LOOKED_AT, len(self))
        grey, colour = [], []
        for row in (i * len(self) // count for i in range(count)):
            try:
                with Image.open(self._file(row)) as image:
                    (grey if is_grey(image.mode) else colour).append(row)
            except Exception as error:  # as in read_picture
                raise ValueError(
                    f"{self._called(row)} cannot be read as an image ({why(error)}); take it out"
                ) from error
        if grey and colour:
            raise ValueError(
                f"{self.path} mixes grey pictures (row {grey[0]}) and RGB ones (row {colour[0]}); pass channels=1 or "
                "channels=3 to bring them to one"
            )
        return 1 if grey else 3

    def subset(self, indices: Sequence[int] | Int[Tensor, " m"]) -> ArrowData:
        """The images at `indices`, in that order, under the same name, split and classes; IndexError for one outside."""
        index = torch.as_tensor(indices)
        chosen = (*self._chosen, hashlib.sha256(index.numpy().tobytes()).hexdigest())
        return with_values(self, labels=self.labels[index], _rows=self._rows.select(index.tolist()), _chosen=chosen)

    def fingerprint(self) -> str:
        """16 hex digits of the sha256 over split, size, channels, classes, crop, labels, and the files' names and contents,
        those of pictures beside the table too. Where the folder is and what it is called do not matter. Files are read once
        (`labcore.contents`)."""
        return self._fingerprint((), self._contents())

    def named_fingerprint(self) -> str:
        """What `fingerprint` was while it held the folder's name."""
        return self._fingerprint((self.name,), self._contents())

    def _contents(self) -> tuple[Any, ...]:
        """Names in the folder and hashes of all files, and the hashes of the rows of subsets."""
        files = [os.path.relpath(file, self.path) for file in self._files] + self._beside()
        return (*zip(files, digests(self.path, files), strict=True), *self._chosen)

    def older_fingerprint(self) -> str:
        """What `fingerprint` was before it read the files: with the lengths of the table's files instead of contents."""
        sizes = ((file.name, file.stat().st_size) for file in self._files)
        return self._fingerprint((self.name,), (*sizes, *self._chosen))

    def _fingerprint(self, name: tuple[str, ...], sources: tuple[Any, ...]) -> str:
        header: tuple[Any, ...] = (*name, self.split, self.image_size, self.channels, self.classes, self.crop, sources)
        header += () if PICTURE_VERSION == 1 else (PICTURE_VERSION,)
        digest = hashlib.sha256(repr(header).encode())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _beside(self) -> list[str]:
        """Paths of the table's pictures that lie in files of their own, those that are there."""
        import pyarrow.compute

        paths: list[str | None] = []
        for part in self._rows.data.column(self._image).chunks:
            outside = pyarrow.compute.is_null(part.field("bytes"))
            paths += part.field("path").filter(outside).to_pylist()
        return [path for path in dict.fromkeys(paths) if path and _is_inside(path) and (self.path / path).is_file()]


def is_arrow(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of Arrow or Parquet files, and not of class folders. ValueError for one that holds both."""
    folder = Path(path)
    if not folder.is_dir():
        return False
    if _saved(folder) or (folder / "state.json").is_file():
        return True
    if not (files := _parquet_files(folder)):
        return False
    pictures = (
        each for pattern in ("*/*", "*/*/*") for each in folder.glob(pattern) if each.suffix.lower() in PICTURES
    )
    if (picture := next(pictures, None)) is not None:
        raise ValueError(
            f"{folder} holds pictures ({picture.relative_to(folder)}) and Parquet files ({files[0].relative_to(folder)}); "
            "move one kind away"
        )
    return True


def split_names(path: str | os.PathLike[str]) -> dict[str, str | None]:
    """Our splits "train" and "test" -> what they are called in a folder of Arrow or Parquet files; None for a missing one."""
    there = _splits(Path(path))
    return {split: _name_of(there, split) for split in SPLITS}


def _saved(folder: Path) -> bool:
    """Whether save_to_disk wrote it, a folder a split."""
    return (folder / "dataset_dict.json").is_file() or any(folder.glob("*/state.json"))


def _splits(folder: Path) -> dict[str, list[Path]]:
    """Names of the splits and where they are: a folder that save_to_disk wrote, or Parquet files. Raises as `_parquet`."""
    if (folder / "state.json").is_file():
        raise ValueError(
            f"{folder} is a single split; save a DatasetDict with train and test: datasets.DatasetDict(train=..., "
            "test=...).save_to_disk(folder)"
        )
    return (
        {each.parent.name: [each.parent] for each in folder.glob("*/state.json")}
        if _saved(folder)
        else _parquet(folder)
    )


def _name_of(there: dict[str, list[Path]], split: str) -> str | None:
    """Which of the splits that are there is ours; of several with one meaning, as val and validation, the last by name."""
    return next((name for word in SPLITS[split] for name in sorted(there)[::-1] if split_of(name) == word), None)


def _is_inside(path: str) -> bool:
    """Whether a path stays in its folder: a relative one that goes nowhere up, not even from a link to another folder."""
    return not os.path.isabs(path) and ".." not in Path(path).parts


def _inside(path: str) -> str:
    """The path of a picture relative to the folder; ValueError for one that leaves it."""
    if not _is_inside(path):
        raise ValueError(f"its path {path!r} leaves the folder")
    return path


def _open(folder: Path, there: dict[str, list[Path]], split: str) -> tuple[Any, list[Path]]:
    """The split's table, and its files."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: there are {', '.join(SPLITS)}")
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{folder} holds Arrow or Parquet files, which need the package datasets: {INSTALL}") from None
    if (name := _name_of(there, split)) is None:
        files = ", ".join(sorted({each.name for each in _parquet_files(folder)})[:3]) or "no Parquet files"
        raise ValueError(
            f"{folder} has no split for {split!r}, which may be called {CALLED[split]}; there are "
            f"{', '.join(sorted(there)) or f'none ({files})'}"
        )
    try:
        if there[name][0].is_dir():
            table, files = datasets.load_from_disk(str(there[name][0])), sorted(there[name][0].glob("*.arrow"))
        else:
            files = sorted(there[name])
            datasets.disable_progress_bars()
            literal = [glob.escape(os.path.abspath(file)) for file in files]  # datasets takes paths for patterns
            table = datasets.load_dataset("parquet", data_files={name: literal}, split=name)
    except Exception as error:  # whatever pyarrow and datasets say of damaged files
        reason = first_line(error)
        raise ValueError(
            f"{folder} {name} is empty, or cannot be read ({reason}); "
            "copy it again, or write it again with datasets' save_to_disk"
        ) from error
    if len(table) == 0:
        raise ValueError(f"{folder} {name} has no images")
    return table, files


def _parquet_files(folder: Path) -> list[Path]:
    found = (each for pattern in ("*.parquet", "*/*.parquet") for each in folder.glob(pattern))
    return sorted(each for each in found if not any(part.startswith(".") for part in each.relative_to(folder).parts))


def _parquet(folder: Path) -> dict[str, list[Path]]:
    """Parquet files by split: what their name begins with, or the folder they lie in.

    ValueError where the files of a split lie in several folders, or some of them are missing by their own count.
    """
    there: dict[str, list[Path]] = {}
    for file in _parquet_files(folder):
        begins = re.split(r"[-_.]", file.name)[0]
        if found := next((name for name in (begins, file.parent.name) if split_of(name)), None):
            there.setdefault(found.lower(), []).append(file)
    for name, files in there.items():
        if len(folders := {str(file.parent.relative_to(folder)) for file in files}) > 1:
            raise ValueError(
                f"{folder} has files of {name} in several folders ({', '.join(sorted(folders))}); give one of them"
            )
        numbered = [SHARD.search(file.name) for file in files]
        wanted = {int(match[2]) for match in numbered if match}
        if wanted and (wanted != {len(files)} or not all(numbered)):
            raise ValueError(
                f"{folder} has {len(files)} files of {name}, and their names speak of {', '.join(map(str, sorted(wanted)))}; "
                "copy what is missing, or move away what is too many"
            )
    return there


def _columns(folder: Path, table: Any) -> tuple[str, str]:
    """Names of the columns of images and labels; ValueError where they are not clear."""
    import datasets

    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image) or _is_encoded(feature)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [
        name for name in ("label",) if str(getattr(features.get(name), "dtype", "")).startswith(("int", "uint"))
    ]
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


def _labels(folder: Path, split: str, table: Any, label: str) -> Int64[Tensor, " n"]:
    """Every row's label; ValueError where some have none."""
    if missing := table.data.column(label).null_count:
        raise ValueError(f"{folder} {split} has {missing} rows without a label; take them out")
    return torch.as_tensor(table.with_format("numpy")[label][:]).long()


def _classes(
    folder: Path, there: dict[str, list[Path]], split: str, table: Any, label: str
) -> tuple[tuple[str, ...], Int64[Tensor, " n"]]:
    """Names of the train split's classes, and this split's labels in 0..classes-1; ValueError unless they fit.

    Whole numbers without names are the classes' names themselves, in their order: 1, 2, 5 become 0, 1, 2.
    """
    own, labels = getattr(table.features[label], "names", None), _labels(folder, split, table, label)
    of_train = labels
    if split != "train" and _name_of(there, "train") is not None:
        train, _ = _open(folder, there, "train")
        other = _columns(folder, train)[1]
        names = getattr(train.features[other], "names", None)
        if names != own:
            raise ValueError(f"{folder} has classes {names} in train and {own} in {split}; they must be the same")
        of_train = _labels(folder, "train", train, other)
    numbers = torch.arange(len(own)) if own is not None else of_train.unique()
    if int(labels.min()) < 0 or int(numbers.min()) < 0:
        raise ValueError(
            f"{folder} {split} has labels from {int(labels.min())} to {int(labels.max())}; images without a label (-1) "
            "cannot be used: take them out"
        )
    if len(unknown := labels[~torch.isin(labels, numbers)]):
        raise ValueError(
            f"{folder} {split} has the label {int(unknown[0])}, and the {len(numbers)} classes of train lack it; take these "
            "images out, or add some of that class to train"
        )
    if split == "train" and (empty := len(numbers) - len(of_train.unique())):
        warnings.warn(f"{folder}: {empty} of {len(numbers)} classes have no images in train", stacklevel=4)
    names = tuple(own) if own is not None else tuple(map(str, numbers.tolist()))
    return names, torch.searchsorted(numbers, labels)
