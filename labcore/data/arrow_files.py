"""The splits of a folder of Arrow or Parquet files, and the files of each. A folder has one of two layouts:

    written by save_to_disk       of a DatasetDict: dataset_dict.json, and for each split a folder with state.json
    Parquet files                 train-00000-of-00294.parquet and the like, or 0.parquet in a folder "train", in the folder
                                  itself or one folder below, as for ImageNet on the Hugging Face hub; the first use converts
                                  them to Arrow files in the cache of `datasets`

Held-out images are the split "validation" or "val". If neither exists, they are the split "test"; it comes second because
ImageNet's test split has no labels. Other usual names of splits are recognised (`labcore.data.splits`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from labcore.data.splits import split_of

Splits = dict[str, list[Path]]
"""Name of a split in its folder -> the folder that save_to_disk wrote, or its Parquet files."""
SPLITS = {"train": ("train",), "test": ("val", "test")}
"""Our split -> results of `split_of` for names of that split, in order of preference."""
SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")
"""End of the name of a Parquet file that is one of several: its number, and how many there are."""
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
"""Suffixes of picture files; a folder with Parquet files must not have any."""


def is_arrow(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder has Arrow or Parquet files, and not class folders. Raises ValueError if it has both."""
    folder = Path(path)
    if not folder.is_dir():
        return False
    if _is_saved(folder) or (folder / "state.json").is_file():
        return True
    files = parquet_files(folder)
    if not files:
        return False
    picture = next(_pictures(folder), None)
    if picture is not None:
        raise ValueError(
            f"{folder} holds pictures ({picture.relative_to(folder)}) and Parquet files ({files[0].relative_to(folder)}); "
            "move one of the two kinds away"
        )
    return True


def split_names(path: str | os.PathLike[str]) -> dict[str, str | None]:
    """Return {"train": name, "test": name}: the folder's names of these splits, or None for a split that it does not have."""
    splits = splits_in(Path(path))
    return {split: name_of(splits, split) for split in SPLITS}


def splits_in(folder: Path) -> Splits:
    """Return the splits of a folder.

    Raises ValueError for a single split, if the files of a split are in several folders, and if their names give another
    number of files (see `SHARD`).
    """
    if (folder / "state.json").is_file():
        raise ValueError(
            f"{folder} is a single split; save a DatasetDict with train and test: datasets.DatasetDict(train=..., "
            "test=...).save_to_disk(folder)"
        )
    if _is_saved(folder):
        return {state.parent.name: [state.parent] for state in folder.glob("*/state.json")}
    splits: Splits = {}
    for file in parquet_files(folder):
        if (name := _split_name(file)) is not None:
            splits.setdefault(name, []).append(file)
    for name, files in splits.items():
        _check_one_folder(folder, name, files)
        _check_count(folder, name, files)
    return splits


def name_of(splits: Splits, split: str) -> str | None:
    """Return the folder's name of our split, or None. Of two synonyms, such as val and validation, the last one is returned."""
    for meaning in SPLITS[split]:
        for name in sorted(splits, reverse=True):
            if split_of(name) == meaning:
                return name
    return None


def parquet_files(folder: Path) -> list[Path]:
    """List the Parquet files in a folder and one folder below, without hidden ones."""

    def is_hidden(file: Path) -> bool:
        return any(part.startswith(".") for part in file.relative_to(folder).parts)

    found = [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]
    return sorted(file for file in found if not is_hidden(file))


def _is_saved(folder: Path) -> bool:
    """Return whether save_to_disk wrote the folder, with one folder for each split."""
    return (folder / "dataset_dict.json").is_file() or any(folder.glob("*/state.json"))


def _pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures one and two folders below."""
    for pattern in ("*/*", "*/*/*"):
        yield from (file for file in folder.glob(pattern) if file.suffix.lower() in PICTURES)


def _split_name(file: Path) -> str | None:
    """Return the split of a Parquet file: the beginning of its name, or the name of its folder; None if neither is a split."""
    beginning = re.split(r"[-_.]", file.name)[0]
    for name in (beginning, file.parent.name):
        if split_of(name):
            return name.lower()
    return None


def _check_one_folder(folder: Path, name: str, files: list[Path]) -> None:
    folders = {str(file.parent.relative_to(folder)) for file in files}
    if len(folders) > 1:
        raise ValueError(
            f"{folder} has files of {name} in several folders ({', '.join(sorted(folders))}); give one of them"
        )


def _check_count(folder: Path, name: str, files: list[Path]) -> None:
    """Raise ValueError if the names of the files give another number of files than there are."""
    numbered = [SHARD.search(file.name) for file in files]
    totals = {int(match[2]) for match in numbered if match}
    if totals and (totals != {len(files)} or not all(numbered)):
        raise ValueError(
            f"{folder} has {len(files)} files of {name}; by their names there are {', '.join(map(str, sorted(totals)))}. "
            "Copy the missing files, or move the surplus ones away"
        )
