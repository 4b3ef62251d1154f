"""Your own images: any folder of class folders, read through Pillow as they are asked for.

Two layouts:

    path/train/<class>/*  and  path/test/<class>/*  (or path/val/<class>/*, read where no test folder has class folders)
    path/<class>/*        then every 10th file of each class in sorted order is test, and the others are train

Other usual names of splits, as Training and testing, count too (`labcore.data.splits`). Class folders are sorted by name, and
as numbers where all names are whole numbers.

How a file becomes a square is in `labcore.data.picture`. The hold-out rule is our choice.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from labcore.contents import digests
from labcore.data.images import ImageData
from labcore.data.picture import PICTURE_VERSION, Crop, check_how, is_grey, read_picture, refuse_program
from labcore.data.picture_set import PictureSet, with_values
from labcore.data.splits import split_of

HOLD_OUT = 10  # every 10th file is test where the folder has no split of its own
CHECK_ALL = 5_000  # up to this many files every header is opened,
CHECK_SOME = 1_000  # beyond it an even sample of this many
NOT_IMAGES = {"thumbs.db", "desktop.ini"}  # passed over, as are names that begin with a dot
LAYOUT = (
    "Put the images into one folder a class: <path>/<class>/*.png, or <path>/train/<class>/ and <path>/test/<class>/."
)


class ImageFolderData(PictureSet):
    """A split ("train" or "test") of a folder of class folders, read from its files: a `labcore.data.Dataset`.

    Every item is uint8 (channels, image_size, image_size) with a label; classes are the folders' names, sorted.
    channels: 1 grey, 3 RGB; None takes what the files are, which must then all be the same (a file beyond the checked
    ones is converted). crop: of `labcore.data.picture`. The files of both splits are checked: every header where there
    are at most 5,000, else an even sample of 1,000 and every file with an unfamiliar suffix.

    Raises FileNotFoundError if `path` is missing; ValueError for sizes and channels out of range, for a folder that is
    not laid out as above, for splits with different classes, and for files that are no images.
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
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: a folder has 'train' and 'test' (a val folder counts as test).")
        check_how(image_size, channels, crop)
        self.path = Path(path)
        splits = _scan(self.path)
        if split not in splits:
            raise ValueError(f"{self.path} has no images for split={split!r}. {_why_missing(self.path)}")
        every_file = [file for classes in splits.values() for files in classes.values() for file in files]
        found = _check_headers(self.path, every_file, channels)

        self.name = self.path.resolve().name
        self.split = split
        self.image_size, self.crop = image_size, crop
        self.channels = channels if channels is not None else found
        self.classes = tuple(splits[split])
        self.files = tuple(file for files in splits[split].values() for file in files)  # relative to path
        counts = [len(files) for files in splits[split].values()]
        self.labels: Int64[Tensor, " n"] = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        size = f"{self.channels}x{self.image_size}x{self.image_size}"
        return f"ImageFolderData({self.name!r}, {self.split!r}: {len(self):,} of {size}, {self.num_classes} classes)"

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "c s s"], int]:
        """One image (c, s, s) and its label. Raises ValueError, naming the file, if it cannot be read."""
        return self._read(index), int(self.labels[index])

    def __getitems__(
        self, indices: Sequence[int] | Int[Tensor, " b"]
    ) -> tuple[UInt8[Tensor, "b c s s"], Int64[Tensor, " b"]]:
        """A batch. DataLoader calls this and hands the result to its collate_fn, which must be the identity."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return torch.stack([self._read(i) for i in index.tolist()]), self.labels[index]

    def _read(self, index: int) -> UInt8[Tensor, "c s s"]:
        return read_picture(self.path / self.files[index], self.image_size, self.channels, self.crop)

    def subset(self, indices: Sequence[int] | Int[Tensor, " m"]) -> "ImageFolderData":
        """The images at `indices`, in that order, under the same name, split and classes; IndexError for one outside."""
        files = tuple(self.files[i] for i in indices)
        return with_values(self, files=files, labels=self.labels[torch.as_tensor(indices)])

    def fingerprint(self) -> str:
        """16 hex digits of the sha256 over split, size, channels, classes, crop, and every file's path in the folder, label
        and contents. Where the folder is and what it is called do not matter. Files are read once; their hashes are kept
        (`labcore.contents`)."""
        return self._fingerprint((), digests(self.path, self.files))

    def named_fingerprint(self) -> str:
        """What `fingerprint` was while it held the folder's name."""
        return self._fingerprint((self.name,), digests(self.path, self.files))

    def older_fingerprint(self) -> str:
        """What `fingerprint` was before it read the files: with their lengths in bytes instead of their contents."""
        return self._fingerprint((self.name,), [(self.path / file).stat().st_size for file in self.files])

    def _fingerprint(self, name: tuple[str, ...], contents: Sequence[Any]) -> str:
        header: tuple[Any, ...] = (*name, self.split, self.image_size, self.channels, self.classes)
        header += () if self.crop == "fit" else (self.crop,)
        header += () if PICTURE_VERSION == 1 else (PICTURE_VERSION,)
        digest = hashlib.sha256(repr(header).encode())
        for entry in zip(self.files, self.labels.tolist(), contents, strict=True):
            digest.update(repr(entry).encode())
        return digest.hexdigest()[:16]

    def to_memory(self) -> ImageData:
        """The whole split as ImageData, for small sets: it takes n * channels * image_size**2 bytes."""
        images = torch.empty(len(self), self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        for index in range(len(self)):
            images[index] = self[index][0]
        return ImageData(images, self.labels.clone(), self.classes, self.name, self.split)


def _scan(path: Path) -> dict[str, dict[str, list[str]]]:
    """{split: {class: files}}, files relative to `path` and sorted; only splits that have images."""
    if not path.exists():
        raise FileNotFoundError(f"the image folder {path} does not exist; check the path.")
    if not path.is_dir():
        raise ValueError(f"{path} is a file; give the folder that holds the class folders.")
    folders = _split_folders(path)
    if not folders:
        _check_not_splits(path)
        classes = _class_files(path, path)
        train = {name: [f for i, f in enumerate(files) if (i + 1) % HOLD_OUT] for name, files in classes.items()}
        test = {name: files[HOLD_OUT - 1 :: HOLD_OUT] for name, files in classes.items()}
        return {"train": train, "test": test} if any(test.values()) else {"train": train}

    splits = {split: _class_files(path, folder) for split, folder in folders.items()}
    if len(splits) == 2 and set(splits["train"]) != set(splits["test"]):
        train, test = set(splits["train"]), set(splits["test"])
        raise ValueError(
            f"{path}: {folders['train'].name} and {folders['test'].name} must have the same class folders, but only "
            f"{folders['train'].name} has {sorted(train - test)} and only {folders['test'].name} has "
            f"{sorted(test - train)}. Rename or move them."
        )
    return splits


def _split_folders(path: Path) -> dict[str, Path]:
    """{"train": folder, "test": folder}, those that are there; {} where the folders below are classes.

    They are splits where all are named so, or one named so has folders. Else "train" is a class. ValueError where two folders
    are named as one split. What is left out is told by a warning.
    """
    below = _class_names(path)
    named = {name: split for name in below if (split := split_of(name))}
    inner = {name: _inner(path / name) for name in named}
    if not named or (len(named) < len(below) and not any(map(_class_names, inner.values()))):
        return {}
    found = {split: [name for name in below if named.get(name) == split] for split in ("train", "test", "val")}
    if double := next((names for names in found.values() if len(names) > 1), None):
        raise ValueError(
            f"{path} has {' and '.join(double)}, which are named as one split; rename or move all but one."
        )
    held_out = found["test"] + found["val"]
    with_classes = [name for name in held_out if _class_names(inner[name])]
    chosen = found["train"] + (with_classes or held_out)[:1]
    if left := [name for name in below if name not in chosen]:
        warnings.warn(f"{path}: {' and '.join(chosen)} are read, and {', '.join(left)} left out", stacklevel=4)
    return {"train" if named[name] == "train" else "test": inner[name] for name in chosen}


def _inner(folder: Path) -> Path:
    """A split's folder of class folders: itself, or the one folder in it that is named as it is, as in seg_train/seg_train."""
    below = _class_names(folder)
    same = len(below) == 1 and split_of(below[0]) == split_of(folder.name)
    return _inner(folder / below[0]) if same else folder


def _check_not_splits(path: Path) -> None:
    """ValueError where the folders below hold the same folders and no files, as splits by unknown names do."""
    below, within = _class_names(path), set()
    for name in below:
        within.add(tuple(_class_names(path / name)))
        if len(within) > 1 or any(item.is_file() for item in os.scandir(path / name)):
            return
    if len(below) > 1 and len(shared := within.pop()) > 1:
        raise ValueError(
            f"{path}: {', '.join(below)} hold the same folders ({', '.join(shared[:3])}, ...) and no images, so they look "
            "like splits and not like classes. Name them train and test; or move each class's images up into its folder."
        )


def _class_names(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted; as numbers where all of them are whole numbers."""
    names = sorted(item.name for item in os.scandir(folder) if item.is_dir() and not item.name.startswith("."))
    return sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else names


def _class_files(path: Path, folder: Path) -> dict[str, list[str]]:
    """{class: files} of the class folders in `folder`, subfolders included. Raises ValueError if there is no image."""
    classes = {}
    for name in _class_names(folder):
        files, seen = [], set()
        for parent, folders, names in os.walk(folder / name, followlinks=True):
            if (real := os.path.realpath(parent)) in seen:  # links may lead in circles
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [each for each in folders if not each.startswith(".")]
            image_files = (each for each in names if not each.startswith(".") and each.lower() not in NOT_IMAGES)
            image_files = (each for each in image_files if os.path.isfile(os.path.join(parent, each)))
            files += [Path(parent, each).relative_to(path).as_posix() for each in image_files]
        if not files:
            raise ValueError(f"the class folder {folder / name} has no images; add some or remove it.")
        classes[name] = sorted(files)
    if not classes:
        loose = sum(item.is_file() and not item.name.startswith(".") for item in os.scandir(folder))
        holds = f"holds {loose} files and no class folders" if loose else "is empty"
        raise ValueError(f"{folder} {holds}. {LAYOUT}")
    return classes


def _why_missing(path: Path) -> str:
    if not (folders := _split_folders(path)):
        return f"Every {HOLD_OUT}th file of a class is test, and no class has {HOLD_OUT}: add images or a test folder."
    present = ", ".join(folder.relative_to(path).parts[0] for folder in folders.values())
    return f"It has {present}: add the missing folder, or put the class folders directly in {path}."


def _check_headers(path: Path, files: list[str], channels: int | None) -> int:
    """Open the headers of the files (all, or a sample); the number of channels they have, 1 or 3.

    Raises ValueError for a file that is no image, or if channels is None and grey and RGB files are mixed.
    """
    from PIL import Image

    checked = files
    if len(files) > CHECK_ALL:
        known = Image.registered_extensions()
        sample = {files[i * len(files) // CHECK_SOME] for i in range(CHECK_SOME)}
        checked = [file for file in files if file in sample or os.path.splitext(file)[1].lower() not in known]
    grey, colour = [], []
    for file in checked:
        try:
            with Image.open(path / file) as image:
                refuse_program(image)
                mode = image.mode
        except Exception as error:  # as in read_picture
            raise ValueError(
                f"{path / file} cannot be read as an image ({error}); repair it or take it out of the class folder."
            ) from error
        if mode == "F":
            raise ValueError(f"{path / file} holds floating-point grey values, which have no range; save it as 8 bits.")
        (grey if is_grey(mode) else colour).append(file)
    if channels is None and grey and colour:
        raise ValueError(
            f"{path} mixes {len(grey)} grey files (e.g. {path / grey[0]}) and {len(colour)} RGB files (e.g. "
            f"{path / colour[0]}); pass channels=1 or channels=3 to bring them to one."
        )
    return 1 if grey else 3
