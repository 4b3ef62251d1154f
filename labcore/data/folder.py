"""Your own images: a folder of class folders. Each file is read through Pillow when it is needed.

A folder has one of two layouts:

    path/train/<class>/*  and  path/test/<class>/*  (or path/val/<class>/*, used if no test folder has class folders)
    path/<class>/*        `labcore.data.splits.SplitRule` says which files are test images; by default every 10th file of
                          each class, in sorted order; the others are training images

Other usual names of splits, such as Training and testing, are recognised (`labcore.data.splits`). Class folders are sorted by
name, or as numbers if all names are whole numbers.

`labcore.data.picture` describes how a file becomes a square.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from labcore.contents import digests
from labcore.data.images import ImageData
from labcore.data.picture import (
    PICTURE_VERSION,
    WHITE,
    Crop,
    background_identity,
    check_how,
    is_grey,
    read_picture,
    refuse_cut_off,
    refuse_program,
)
from labcore.data.picture_set import PictureSet, with_values
from labcore.data.splits import SplitRule, split_of

CHECK_ALL = 5_000  # largest number of files of which every header is opened
CHECK_SOME = 1_000  # number of evenly spread files that are opened if there are more
NOT_IMAGES = {"thumbs.db", "desktop.ini"}  # ignored, as are names that begin with a dot
SHOWN = 5  # number of unreadable files that are named
LAYOUT = (
    "Put the images into one folder per class: <path>/<class>/*.png, or <path>/train/<class>/ and <path>/test/<class>/"
)


class ImageFolderData(PictureSet):
    """A split of a folder of class folders: a `labcore.data.protocol.Dataset` that reads its files when they are needed.

    An item is a uint8 picture (channels, image_size, image_size) with its label. The classes are the folders' names, sorted.
    The files of both splits are checked. With at most 5,000 files every header is opened; with more, the headers of 1,000
    evenly spread files and of every file with an unknown suffix.

    Args:
        path: the folder, laid out as the module describes.
        split: "train" or "test".
        image_size: side of the pictures in pixels.
        channels: 1 (grey) or 3 (RGB). None (default): the channels of the checked files, which must agree; files that
            were not checked are converted.
        crop: how a picture becomes a square, see `labcore.data.picture`; default "fit".
        background: colour behind transparent pixels, see `labcore.data.picture.colour_of`; default white.
        rule: which files are test images in a folder without splits; None (default) for every 10th.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: size or channels are out of range, the folder has another layout, the splits have different classes, a
            rule is given for a folder that has splits, or a file is not an image.
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
        rule: SplitRule | None = None,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: a folder has 'train' and 'test' (a val folder counts as test)")
        check_how(image_size, channels, crop, background)
        self.path = Path(path)
        splits = scan(self.path, rule)
        if split not in splits:
            raise ValueError(f"{self.path} has no images for split={split!r}. {_why_missing(self.path, rule)}")
        every_file = [file for classes in splits.values() for files in classes.values() for file in files]
        self.headers = _check_headers(self.path, every_file, channels)

        self.name = self.path.resolve().name
        self.split = split
        self.image_size, self.crop, self.background = image_size, crop, background
        self.channels = channels if channels is not None else self.headers.channels
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
        """Read one image (c, s, s) and its label. Raises ValueError that names the file if it cannot be read."""
        return self._read(index), int(self.labels[index])

    def __getitems__(
        self, indices: Sequence[int] | Int[Tensor, " b"]
    ) -> tuple[UInt8[Tensor, "b c s s"], Int64[Tensor, " b"]]:
        """Read a batch: images (b, c, s, s) and labels (b,). A DataLoader calls this; its collate_fn must be the identity."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return torch.stack([self._read(i) for i in index.tolist()]), self.labels[index]

    def _read(self, index: int) -> UInt8[Tensor, "c s s"]:
        return read_picture(
            self.path / self.files[index], self.image_size, self.channels, self.crop, background=self.background
        )

    def contents(self) -> list[str]:
        """Return a hash of each file's contents; equal files have equal hashes. Files are read once (`labcore.contents`)."""
        return digests(self.path, self.files)

    def subset(self, indices: Sequence[int] | Int[Tensor, " m"]) -> "ImageFolderData":
        """Return the images at `indices`, in that order, with the same name, split and classes. Raises IndexError."""
        files = tuple(self.files[i] for i in indices)
        return with_values(self, files=files, labels=self.labels[torch.as_tensor(indices)])

    def fingerprint(self) -> str:
        """Return 16 hex digits of a sha256 over the settings of reading, and each file's path, label and contents.

        The settings are split, size, channels, classes, crop and background. Paths are relative to the folder, whose location
        and name are not included. Each file is read once (`labcore.contents` keeps the hashes).
        """
        return self._fingerprint((), digests(self.path, self.files))

    def named_fingerprint(self) -> str:
        """Return the fingerprint of versions that included the folder's name."""
        return self._fingerprint((self.name,), digests(self.path, self.files))

    def older_fingerprint(self) -> str:
        """Return the fingerprint of the first versions, which used the files' lengths in bytes, not their contents."""
        return self._fingerprint((self.name,), [(self.path / file).stat().st_size for file in self.files])

    def _fingerprint(self, name: tuple[str, ...], contents: Sequence[Any]) -> str:
        header: tuple[Any, ...] = (*name, self.split, self.image_size, self.channels, self.classes)
        header += () if self.crop == "fit" else (self.crop,)
        header += background_identity(self.background)
        header += () if PICTURE_VERSION == 1 else (PICTURE_VERSION,)
        digest = hashlib.sha256(repr(header).encode())
        for entry in zip(self.files, self.labels.tolist(), contents, strict=True):
            digest.update(repr(entry).encode())
        return digest.hexdigest()[:16]

    def to_memory(self) -> ImageData:
        """Read the whole split into memory; it takes n * channels * image_size**2 bytes."""
        images = torch.empty(len(self), self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        for index in range(len(self)):
            images[index] = self[index][0]
        return ImageData(images, self.labels.clone(), self.classes, self.name, self.split)


def own_splits(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return {split: folder in `path` that holds it}; {} if the folders in `path` are classes. Raises as `scan`."""
    path = Path(path)
    _check_folder(path)
    return {split: folder.relative_to(path).parts[0] for split, folder in _split_folders(path).items()}


def _check_folder(path: Path) -> None:
    """Raise FileNotFoundError for a missing folder, and ValueError for a file."""
    if not path.exists():
        raise FileNotFoundError(f"the image folder {path} does not exist; check the path")
    if not path.is_dir():
        raise ValueError(f"{path} is a file; give the folder that holds the class folders")


def scan(path: Path, rule: SplitRule | None = None) -> dict[str, dict[str, list[str]]]:
    """Return {split: {class: files}} of the splits that have images; files are sorted and relative to `path`.

    rule: as in `ImageFolderData`. Raises as `ImageFolderData` does, but opens no file.
    """
    _check_folder(path)
    folders = _split_folders(path)
    if not folders:
        _check_not_splits(path)
        classes = _class_files(path, path)
        rule = rule or SplitRule()
        test = {name: rule.test_files(files) for name, files in classes.items()}
        train = {name: sorted(set(files) - set(test[name])) for name, files in classes.items()}
        return {"train": train, "test": test} if any(test.values()) else {"train": train}

    if rule is not None:
        raise ValueError(
            f"{path} has splits of its own ({', '.join(folder.name for folder in folders.values())}), so test_share and "
            "split_seed cannot change them; leave them out, or give a folder of class folders without splits"
        )
    splits = {split: _class_files(path, folder) for split, folder in folders.items()}
    if len(splits) == 2 and set(splits["train"]) != set(splits["test"]):
        train, test = set(splits["train"]), set(splits["test"])
        raise ValueError(
            f"{path}: {folders['train'].name} and {folders['test'].name} must have the same class folders, but only "
            f"{folders['train'].name} has {sorted(train - test)} and only {folders['test'].name} has "
            f"{sorted(test - train)}. Rename or move them"
        )
    return splits


def _split_folders(path: Path) -> dict[str, Path]:
    """Return {"train": folder, "test": folder} of the splits that exist; {} if the folders in `path` are classes.

    The folders are splits if all of them have names of splits, or if one with such a name contains folders. Otherwise even
    "train" is a class. Warns about folders that are left out. Raises ValueError if two folders are named as the same split.
    """
    below = _class_names(path)
    named = {name: split for name in below if (split := split_of(name))}
    inner = {name: _inner(path / name) for name in named}
    if not named or (len(named) < len(below) and not any(map(_class_names, inner.values()))):
        return {}
    found = {split: [name for name in below if named.get(name) == split] for split in ("train", "test", "val")}
    if double := next((names for names in found.values() if len(names) > 1), None):
        raise ValueError(
            f"{path} has {' and '.join(double)}, which are names of the same split; rename or move all but one"
        )
    held_out = found["test"] + found["val"]
    with_classes = [name for name in held_out if _class_names(inner[name])]
    chosen = found["train"] + (with_classes or held_out)[:1]
    if left := [name for name in below if name not in chosen]:
        warnings.warn(f"{path}: {' and '.join(chosen)} are read, and {', '.join(left)} left out", stacklevel=4)
    return {"train" if named[name] == "train" else "test": inner[name] for name in chosen}


def _inner(folder: Path) -> Path:
    """Return the folder of class folders of a split: the given one, or its only subfolder if that names the same split.

    An example is seg_train/seg_train.
    """
    below = _class_names(folder)
    same = len(below) == 1 and split_of(below[0]) == split_of(folder.name)
    return _inner(folder / below[0]) if same else folder


def _check_not_splits(path: Path) -> None:
    """Raise ValueError if all folders in `path` have the same subfolders and no files: probably splits with unusual names."""
    below, within = _class_names(path), set()
    for name in below:
        within.add(tuple(_class_names(path / name)))
        if len(within) > 1 or any(item.is_file() for item in os.scandir(path / name)):
            return
    if len(below) > 1 and len(shared := within.pop()) > 1:
        raise ValueError(
            f"{path}: {', '.join(below)} hold the same folders ({', '.join(shared[:3])}, ...) and no images, so they look "
            "like splits and not like classes. Name them train and test; or move each class's images up into its folder"
        )


def _class_names(folder: Path) -> list[str]:
    """List the names of the folders in `folder`, sorted by name, or as numbers if all are whole numbers."""
    names = sorted(item.name for item in os.scandir(folder) if item.is_dir() and not item.name.startswith("."))
    return sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else names


def _class_files(path: Path, folder: Path) -> dict[str, list[str]]:
    """Return {class: files} of the class folders in `folder`, with their subfolders. Raises ValueError for an empty class."""
    classes = {}
    for name in _class_names(folder):
        files, seen = [], set()
        for parent, folders, names in os.walk(folder / name, followlinks=True):
            if (real := os.path.realpath(parent)) in seen:  # links may form a circle
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [each for each in folders if not each.startswith(".")]
            image_files = (each for each in names if not each.startswith(".") and each.lower() not in NOT_IMAGES)
            image_files = (each for each in image_files if os.path.isfile(os.path.join(parent, each)))
            files += [Path(parent, each).relative_to(path).as_posix() for each in image_files]
        if not files:
            raise ValueError(f"the class folder {folder / name} has no images; add some, or remove the folder")
        classes[name] = sorted(files)
    if not classes:
        loose = sum(item.is_file() and not item.name.startswith(".") for item in os.scandir(folder))
        holds = f"holds {loose} files and no class folders" if loose else "is empty"
        raise ValueError(f"{folder} {holds}. {LAYOUT}")
    return classes


def _why_missing(path: Path, rule: SplitRule | None) -> str:
    if not (folders := _split_folders(path)):
        return (
            f"{rule or SplitRule()}, and no class has enough files for one test image; add images or a test folder, or set "
            "data.test_share to a larger share"
        )
    present = ", ".join(folder.relative_to(path).parts[0] for folder in folders.values())
    return f"It has {present}: add the missing folder, or put the class folders directly in {path}"


class Headers(NamedTuple):
    """Facts from the headers of a folder's files.

    channels: 1 or 3. opened: number of headers opened, of both splits. transparency: how many files may have transparent
    pixels. least: pixels along the shortest side of any opened file.
    """

    channels: int
    opened: int
    transparency: int
    least: int


def _check_headers(path: Path, files: list[str], channels: int | None) -> Headers:
    """Open the headers of all files, or of a sample, and return the facts from them.

    Raises ValueError for files that are not images or were cut off, and if channels is None and grey and RGB files are mixed.
    """
    from PIL import Image

    checked = files
    if len(files) > CHECK_ALL:
        known = Image.registered_extensions()
        sample = {files[i * len(files) // CHECK_SOME] for i in range(CHECK_SOME)}
        checked = [file for file in files if file in sample or os.path.splitext(file)[1].lower() not in known]
    grey, colour, sides, unreadable = [], [], [], []
    transparency = 0
    for file in checked:
        try:
            with Image.open(path / file) as image:
                refuse_program(image)
                mode = image.mode
                sides.append(min(image.size))
                transparency += image.has_transparency_data
                refuse_cut_off(image, path / file)
        except Exception as error:  # as in read_picture
            unreadable.append((path / file, str(error)))
            continue
        if mode == "F":
            raise ValueError(f"{path / file} holds floating-point grey values, which have no range; save it as 8 bits")
        (grey if is_grey(mode) else colour).append(file)
    if unreadable:
        raise ValueError(_not_images(unreadable))
    if channels is None and grey and colour:
        raise ValueError(
            f"{path} mixes {len(grey)} grey files (e.g. {path / grey[0]}) and {len(colour)} RGB files (e.g. "
            f"{path / colour[0]}); choose channels 1 or 3 for all of them (--channels on the command line)"
        )
    return Headers(1 if grey else 3, len(checked), transparency, min(sides))


def _not_images(unreadable: list[tuple[Path, str]]) -> str:
    """Name files that cannot be read, with the reasons; of many, the first ones."""
    (first, why_first), *others = unreadable[:SHOWN]
    if not others:
        return f"{first} cannot be read as an image ({why_first}); repair it, or move it out of the class folder"
    named = "; ".join(f"{file} ({reason})" for file, reason in others)
    more = f"; and {len(unreadable) - SHOWN:,} more" if len(unreadable) > SHOWN else ""
    return (
        f"{first} cannot be read as an image ({why_first}), nor can {len(unreadable) - 1:,} other files: {named}{more}. Repair "
        "them, or move them out of the class folders"
    )
