"""The table of a split of Arrow or Parquet files, as the package `datasets` maps it from disk: its images and its labels."""

from __future__ import annotations

import glob
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from labcore.data.arrow_files import SPLITS, Splits, name_of, parquet_files
from labcore.hints import first_line

INSTALL = "pip install 'labcore[arrow]', or pip install datasets"
CALLED = {"train": "train, training", "test": "validation, val, test"}
"""Our split -> its usual names, for messages."""


class Table(NamedTuple):
    """The table of a split.

    Attributes:
        folder: the folder of the data set.
        split: "train" or "test".
        rows: a `datasets.Dataset`.
        files: the files of the rows.
        image: name of the column of images.
        label: name of the column of labels.
    """

    folder: Path
    split: str
    rows: Any
    files: list[Path]
    image: str
    label: str

    @property
    def names(self) -> list[str] | None:
        """Names of the classes, or None if the column of labels has none."""
        return getattr(self.rows.features[self.label], "names", None)

    def undecoded(self) -> Any:
        """Return only the column of images, as the bytes of their files."""
        import datasets

        images = self.rows.select_columns([self.image])
        if _is_encoded(images.features[self.image]):
            return images
        return images.cast_column(self.image, datasets.Image(decode=False))

    def labels(self) -> Int64[Tensor, " n"]:
        """Return the label of every row, (n,), as in the table. Raises ValueError if some rows have none."""
        if missing := self.rows.data.column(self.label).null_count:
            raise ValueError(f"{self.folder} {self.split} has {missing} rows without a label; remove them")
        return torch.as_tensor(self.rows.with_format("numpy")[self.label][:]).long()


def open_table(folder: Path, splits: Splits, split: str) -> Table:
    """Open a split. Raises ValueError if it is missing, cannot be read or has no rows, or if its columns are not unique."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: allowed are {', '.join(SPLITS)}")
    try:
        import datasets  # noqa: F401
    except ImportError:
        raise ValueError(f"{folder} holds Arrow or Parquet files, which need the package datasets: {INSTALL}") from None
    name = name_of(splits, split)
    if name is None:
        raise _no_split(folder, splits, split)
    try:
        rows, files = _read(name, splits[name])
    except Exception as error:  # pyarrow and datasets raise many kinds for damaged files
        raise ValueError(
            f"{folder} {name} is empty, or cannot be read ({first_line(error)}); "
            "copy it again, or write it again with datasets' save_to_disk"
        ) from error
    if len(rows) == 0:
        raise ValueError(f"{folder} {name} has no images")
    image = _only(folder, "images", _image_columns(rows.features), rows.features)
    label = _only(folder, "labels", _label_columns(rows.features), rows.features)
    return Table(folder, split, rows, files, image, label)


def classes_and_labels(table: Table, splits: Splits) -> tuple[tuple[str, ...], Int64[Tensor, " n"]]:
    """Return the names of the train split's classes, and the table's labels (n,) in 0..classes-1.

    Whole numbers without names become the names of the classes: with 1, 2 and 5, the labels are 0, 1 and 2. Raises ValueError
    if the splits have different classes, or if labels are negative or unknown in train.
    """
    names, labels = table.names, table.labels()
    of_train = labels if table.split == "train" else _train_labels(table, splits)
    numbers = torch.arange(len(names)) if names is not None else of_train.unique()
    _check_labels(table, labels, numbers)
    if table.split == "train" and (empty := len(numbers) - len(of_train.unique())):
        warnings.warn(f"{table.folder}: {empty} of {len(numbers)} classes have no images in train", stacklevel=4)
    if names is None:
        names = [str(number) for number in numbers.tolist()]
    return tuple(names), torch.searchsorted(numbers, labels)


def _train_labels(table: Table, splits: Splits) -> Int64[Tensor, " n"]:
    """Return the labels of the train split, or of the table if there is none.

    Raises ValueError if the classes of the train split have other names.
    """
    if name_of(splits, "train") is None:
        return table.labels()
    train = open_table(table.folder, splits, "train")
    if train.names != table.names:
        raise ValueError(
            f"{table.folder} has classes {train.names} in train and {table.names} in {table.split}; they must be the same"
        )
    return train.labels()


def _check_labels(table: Table, labels: Int64[Tensor, " n"], numbers: Int64[Tensor, " k"]) -> None:
    """Raise ValueError unless all labels are among the numbers of the classes, and none is negative."""
    if int(labels.min()) < 0 or int(numbers.min()) < 0:
        raise ValueError(
            f"{table.folder} {table.split} has labels from {int(labels.min())} to {int(labels.max())}; images without a "
            "label (-1) cannot be used: remove them"
        )
    unknown = labels[~torch.isin(labels, numbers)]
    if len(unknown):
        raise ValueError(
            f"{table.folder} {table.split} has the label {int(unknown[0])}, which is not one of the {len(numbers)} classes of "
            "train; remove these images, or add some of that class to train"
        )


def _no_split(folder: Path, splits: Splits, split: str) -> ValueError:
    there = ", ".join(sorted(splits))
    if not there:
        files = sorted({file.name for file in parquet_files(folder)})
        there = f"no splits ({', '.join(files[:3]) or 'no Parquet files'})"
    return ValueError(f"{folder} has no split for {split!r}; it has {there}. Name the split one of {CALLED[split]}")


def _read(name: str, places: list[Path]) -> tuple[Any, list[Path]]:
    """Read the rows of a split, and list their files, from the folder that save_to_disk wrote or from Parquet files."""
    import datasets

    if places[0].is_dir():
        return datasets.load_from_disk(str(places[0])), sorted(places[0].glob("*.arrow"))
    files = sorted(places)
    datasets.disable_progress_bars()
    literal = [glob.escape(os.path.abspath(file)) for file in files]  # datasets reads paths as patterns
    return datasets.load_dataset("parquet", data_files={name: literal}, split=name), files


def _image_columns(features: Any) -> list[str]:
    import datasets

    return [name for name, kind in features.items() if isinstance(kind, datasets.Image) or _is_encoded(kind)]


def _label_columns(features: Any) -> list[str]:
    """List the columns of classes, or else the column of whole numbers named "label"."""
    import datasets

    of_classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if of_classes:
        return of_classes
    number_format = str(getattr(features.get("label"), "dtype", ""))
    return ["label"] if number_format.startswith(("int", "uint")) else []


def _is_encoded(feature: Any) -> bool:
    """Return whether a column has the form of an image column, although the file does not declare it as one."""
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def _only(folder: Path, what: str, found: list[str], features: Any) -> str:
    """Return the only one of these columns. Raises ValueError for none or several."""
    if len(found) != 1:
        raise ValueError(
            f"{folder} has {len(found)} columns of {what} ({', '.join(found) or 'none'}) among {', '.join(features)}; give "
            "one column of datasets' Image, and one of ClassLabel or of whole numbers named label"
        )
    return found[0]
