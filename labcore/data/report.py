"""Report on every picture of a data set before training: counts, sizes, colours, transparency, exact duplicates, damage.

Duplicates are pictures with equal pixels as a model would read them, at the given size. A file that cannot be read is listed,
and the report goes on with the other files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from labcore.data.arrow_files import is_arrow
from labcore.data.datasets import Data
from labcore.data.folder import scan
from labcore.data.picture import WHITE, Facts, check_how, is_grey, picture_facts, read_picture
from labcore.data.protocol import Dataset
from labcore.data.splits import chosen_rule
from labcore.processes import usable_cores
from labcore.progress import Progress
from labcore.spread import spread_rows

SPLITS = ("train", "test")
SHOWN = 12
"""Pictures of each class that a report keeps for a contact sheet; our choice."""
NAMED = 5
"""Unreadable pictures that an error names; our choice."""
TOGETHER = 256
"""Number of pictures that the threads read before they start with the next ones; our choice."""


class Place(NamedTuple):
    """Where a picture is: its split, the number of its class, and its file or row."""

    split: str
    label: int
    called: str


class Looked(NamedTuple):
    """A picture that was read: its place, the facts of its file, and the sha256 of its pixels."""

    place: Place
    facts: Facts
    digest: bytes


class DataReport(NamedTuple):
    """Report on the pictures of a data set.

    data: the data set in words. classes: names of the classes. image_size: side in pixels at which pictures were read.
    pictures: the readable pictures, in order. unreadable: the place of each unreadable picture, and the reason. samples: up to
    SHOWN different pictures of each class, chosen by their digests and thus as if at random.
    """

    data: str
    classes: tuple[str, ...]
    image_size: int
    pictures: list[Looked]
    unreadable: list[tuple[Place, str]]
    samples: list[list[UInt8[Tensor, "c s s"]]]

    @property
    def counts(self) -> dict[str, list[int]]:
        """Pictures of each class, by split."""
        found = {split: [0] * len(self.classes) for split in SPLITS}
        for each in self.pictures:
            found[each.place.split][each.place.label] += 1
        return found

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """(Width, height) of the files -> how many files have it."""
        return Counter(each.facts.size for each in self.pictures)

    @property
    def modes(self) -> Counter[str]:
        """Pillow's name of the files' pixel format -> how many files have it."""
        return Counter(each.facts.mode for each in self.pictures)

    @property
    def grey(self) -> int:
        """Pictures without colours."""
        return sum(is_grey(each.facts.mode) for each in self.pictures)

    @property
    def transparent(self) -> int:
        """Pictures with transparent pixels."""
        return sum(each.facts.transparent for each in self.pictures)

    @property
    def small(self) -> int:
        """Pictures whose shorter side has fewer pixels than `image_size`, so that they are enlarged."""
        return sum(min(each.facts.size) < self.image_size for each in self.pictures)

    @property
    def longest(self) -> Looked:
        """The picture whose sides differ most."""
        return max(self.pictures, key=lambda each: max(each.facts.size) / min(each.facts.size))

    @property
    def duplicates(self) -> list[list[Place]]:
        """Groups of pictures with equal pixels."""
        groups = duplicate_groups(each.digest for each in self.pictures)
        return [[self.pictures[number].place for number in group] for group in groups]

    def check(self) -> None:
        """Raise ValueError that names the first few unreadable pictures, if there are any; training would stop at them."""
        if self.unreadable:
            first = "; ".join(reason.rstrip(".") for _, reason in self.unreadable[:NAMED])
            raise ValueError(
                f"{self.data}: {len(self.unreadable):,} pictures cannot be read, and training would stop at them: {first}"
            )

    def record(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        sizes = [{"width": w, "height": h, "n": n} for (w, h), n in sorted(self.sizes.items())]
        return {
            **dict(data=self.data, classes=self.classes, counts=self.counts, image_size=self.image_size, sizes=sizes),
            **dict(modes=dict(self.modes), grey=self.grey, transparent=self.transparent, small=self.small),
            "duplicates": [[self._named(place) for place in group] for group in self.duplicates],
            "unreadable": [{**self._named(place), "reason": reason} for place, reason in self.unreadable],
        }

    def _named(self, place: Place) -> dict[str, str]:
        return {"split": place.split, "class": self.classes[place.label], "picture": place.called}


def duplicate_groups(keys: Iterable[Hashable]) -> list[list[int]]:
    """Return groups of the indices of equal keys: groups of two or more, in the order of their first index."""
    groups: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def examine(data: Data, limit: int | None = None, progress: Progress | None = None) -> DataReport:
    """Read every picture of a data set, and report what they are.

    limit: largest number of pictures of each split, evenly spread; None (default): all. Raises as `labcore.data.load`, but not
    for unreadable pictures in a folder. Raises ValueError if no picture can be read.
    """
    source = _class_folders(data) if data.name == "folder" and not is_arrow(data.path) else _data_set(data)
    places = [place for split in SPLITS for place in _spread(source.places.get(split, []), limit)]
    looked: list[Looked] = []
    unreadable: list[tuple[Place, str]] = []
    samples: list[dict[bytes, Tensor]] = [{} for _ in source.classes]
    for done, (place, found) in enumerate(zip(places, _read_all(source.read, places), strict=True), 1):
        if progress:
            progress("pictures looked at", done, len(places))
        if isinstance(found, str):
            unreadable.append((place, found))
            continue
        facts, pixels = found
        looked.append(Looked(place, facts, hashlib.sha256(pixels.numpy().tobytes()).digest()))
        _keep_least(samples[place.label], looked[-1].digest, pixels)
    if not looked:
        raise ValueError(f"{data} has no picture that can be read; the first: {unreadable[0][1]}")
    kept = [[pixels for _, pixels in sorted(of_class.items())] for of_class in samples]
    return DataReport(str(data), source.classes, source.image_size, looked, unreadable, kept)


class _Source(NamedTuple):
    """A data set to look at: classes, side in pixels, places by split, and how the picture of a place is read."""

    classes: tuple[str, ...]
    image_size: int
    places: dict[str, list[Place]]
    read: Callable[[Place], tuple[Facts, Tensor]]


def _class_folders(data: Data) -> _Source:
    """Return a folder of class folders as a source, without opening its files."""
    how = (data.image_size, data.channels or 3, data.crop or "fit")
    behind = WHITE if data.background is None else data.background
    check_how(*how, behind)
    folder = Path(data.path)
    splits = scan(folder, chosen_rule(data.test_share, data.split_seed))
    classes = tuple(next(iter(splits.values())))
    places = {
        split: [Place(split, label, file) for label, name in enumerate(classes) for file in files[name]]
        for split, files in splits.items()
    }

    def read(place: Place) -> tuple[Facts, Tensor]:
        file = folder / place.called
        pixels = read_picture(file, *how, background=behind)  # first, since its errors name the file
        return picture_facts(file), pixels

    return _Source(classes, data.image_size, places, read)


def _data_set(data: Data) -> _Source:
    """Return any other data set as a source, as `labcore.data.load` reads it."""
    if data.name == "folder":
        data = data._replace(channels=data.channels or 3)
    parts = {split: data.split(split) for split in SPLITS}
    places = {
        split: [Place(split, label, f"row {row}") for row, label in enumerate(part.labels.tolist())]
        for split, part in parts.items()
    }

    def read(place: Place) -> tuple[Facts, Tensor]:
        part, row = parts[place.split], int(place.called.removeprefix("row "))
        return _facts(part, row), part.__getitems__([row])[0][0]

    return _Source(parts["train"].classes, parts["train"].image_size, places, read)


def _facts(images: Dataset, row: int) -> Facts:
    """Return the facts of a picture's file, or of its pixels if the data set is in memory."""
    if hasattr(images, "source"):
        return picture_facts(images.source(row))
    side = images.image_size
    return Facts((side, side), "L" if images.channels == 1 else "RGB", False)


def _spread(places: list[Place], limit: int | None) -> list[Place]:
    return [places[row] for row in spread_rows(len(places), limit)]


def _read_all(
    read: Callable[[Place], tuple[Facts, Tensor]], places: Sequence[Place]
) -> Iterator[tuple[Facts, Tensor] | str]:
    """Yield the picture of each place in order, or the reason why it cannot be read.

    Threads read the pictures, because Python can run other threads while one decodes.
    """

    def found(place: Place) -> tuple[Facts, Tensor] | str:
        try:
            return read(place)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for first in range(0, len(places), TOGETHER):
            yield from pool.map(found, places[first : first + TOGETHER])


def _keep_least(samples: dict[bytes, Tensor], digest: bytes, pixels: Tensor) -> None:
    """Keep the pictures with the SHOWN smallest digests."""
    samples[digest] = pixels
    if len(samples) > SHOWN:
        del samples[max(samples)]
