"""Requirements of a full-size run: data, weights and disk space. Each is checked, and all findings are reported together."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from labcore.config import BaseRunConfig
from labcore.data.folder import ImageFolderData
from labcore.data.protocol import Dataset
from labcore.files import cache_folder
from labcore.latents.weights import layout
from labcore.plan import Plan, on_disk, words

OK, MISSING, RANDOM, LATER = "ok", "missing", "random", "later"
"""Status of a requirement: met; missing; replaced by random numbers in this rehearsal; or needed by the real run only."""
INCEPTION, DISK = "Inception for FID", "disk"
"""Requirements that a rehearsal itself does not have."""
LOOKED_AT = 100
"""Number of pictures, evenly spread, whose sizes are read; our choice."""
WEIGHTS, CHECKPOINT = 4, 16
"""Bytes per parameter in a saved model, and in a checkpoint, which also has averaged weights and AdamW's two moments."""
DRAWN = 50_000
"""Number of images of an evaluation, as in papers."""


class Point(NamedTuple):
    """One requirement of a run: its name, its status (`OK`, ...), what was found, and how to meet it if it is missing."""

    name: str
    status: str
    found: str
    remedy: str = ""

    def done_without(self) -> Point:
        """Return the requirement for a rehearsal in which random numbers replace missing data and weights."""
        if self.status != MISSING:
            return self
        unused = self.name == DISK or self.found == INCEPTION
        return self._replace(status=LATER if unused else RANDOM)


def of_data(
    config: BaseRunConfig, read: Callable[[str], Dataset], without: str | None = None
) -> tuple[Point, Dataset | None]:
    """Check the data; return the finding and the training images, None if these cannot be used.

    read: called with "train" or "test", returns the images. without: the reason if there is nothing to read; None otherwise.
    """
    if without is not None:
        return Point("data", MISSING, without, "give --data FOLDER, a folder of class folders"), None
    try:
        train, test = read("train"), read("test")
    except (ValueError, OSError, ImportError) as error:
        return Point("data", MISSING, str(error)), None
    if problem := _unfit(config, train, test):
        return Point("data", MISSING, *problem), None
    counts = train.labels.bincount(minlength=train.num_classes)
    least, most = int(counts.min()), int(counts.max())
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    line = (
        f"{train.name}: {len(train):,} training and {len(test):,} test images, {train.num_classes:,} "
        f"class{'es' if train.num_classes > 1 else ''} of {each} training images each, read as {train.channels} x "
        f"{train.image_size} x {train.image_size}"
    )
    return Point("data", OK, line + _sides(train)), train


def of_weights(needed: dict[str, Callable[[], Path]]) -> list[Point]:
    """Check the weights of each network that is needed; if none is, a single finding says so."""
    points = []
    for name, look in needed.items():
        try:
            points.append(Point("weights", OK, f"{name}: {look()}"))
        except (ValueError, OSError, ImportError) as error:
            points.append(Point("weights", MISSING, name, str(error)))
    return points or [Point("weights", OK, "none are needed")]


def count_of(config: BaseRunConfig, images: Dataset | None) -> int:
    """Return the number of training images of a run; without given images, that of ImageNet."""
    count = words.IMAGENET if images is None else len(images)
    return min(count, config.data.limit or count)


def of_disk(config: BaseRunConfig, plan: Plan, images: Dataset | None, place: Path) -> Point:
    """Check the disk space for the run under `place` and in the cache folder.

    images: the training images; None: as many as ImageNet has.
    """
    count = count_of(config, images)
    one = CHECKPOINT * plan.trained
    saved = min(config.train.keep, math.ceil(plan.steps / config.train.save_every))
    run = {
        f"{saved + 1} checkpoints": (saved + 1) * one + WEIGHTS * plan.parameters
    }  # a new one is written before an old one is deleted
    cache = {name: each * count for name, each in on_disk(config).items()}
    cache[f"{DRAWN:,} drawn images"] = DRAWN * _pixels(config)
    free = {place: run, cache_folder(): cache}
    short, lines = [], []
    for at, needs in _by_disk(free):
        wanted, has = sum(needs.values()), shutil.disk_usage(_existing(at)).free
        lines.append(
            f"{words.size(wanted)} ({', '.join(f'{words.size(n)} of {what}' for what, n in needs.items())}) of "
            f"{words.size(has)} free at {at.expanduser().resolve()}"
        )
        if wanted > has:
            short.append(
                f"free {words.size(wanted - has)} at {at}, give --set train.keep=1, or set LABCORE_CACHE to a folder on "
                "a larger disk"
            )
    return Point(DISK, MISSING if short else OK, "; ".join(lines), "; ".join(short))


def room_for_rehearsal(plan: Plan, place: Path) -> Point | None:
    """Return a finding if `place` has no room for the checkpoint and the model that a rehearsal writes; else None."""
    wanted, has = (CHECKPOINT + WEIGHTS) * plan.trained, shutil.disk_usage(_existing(place)).free
    if wanted <= has:
        return None
    line = f"the rehearsal writes {words.size(wanted)} to {place}, which has {words.size(has)} free"
    return Point(DISK, MISSING, line, "give --out, a new folder on a larger disk")


def _unfit(config: BaseRunConfig, train: Dataset, test: Dataset) -> tuple[str, str] | None:
    """Return a problem of images that can be read, and how to solve it; None if there is none."""
    batch, classes = config.train.batch_size, config.model.num_classes
    count = min(len(train), config.data.limit or len(train))
    if count < batch:
        return f"{count:,} training images for batches of {batch}", f"give --set train.batch_size={count} or less"
    if len(test) < 2:
        return f"{len(test)} test image{'s' if len(test) != 1 else ''}", "a test likelihood needs 2 or more; add some"
    if classes not in (0, train.num_classes):
        return (
            f"{train.num_classes} classes, and the model has {classes}",
            f"give --set model.num_classes={train.num_classes}, or 0 for an unconditional model",
        )
    return None


def _sides(images: Dataset) -> str:
    """Describe the sizes of some pictures of a folder; "" for other data."""
    if not isinstance(images, ImageFolderData):
        return ""
    from PIL import Image

    some = [images.files[i * len(images) // LOOKED_AT] for i in range(LOOKED_AT)]
    sides = []
    for file in sorted(set(some)):
        with Image.open(images.path / file) as picture:
            sides.append(min(picture.size))
    small = sum(side < images.image_size for side in sides)
    line = f"; the files' shorter side is {min(sides)} to {max(sides)} pixels (median {statistics.median(sides):.0f})"
    if not small:
        return line
    return f"{line}; {small} of the {len(sides)} files checked have fewer than {images.image_size} and are enlarged"


def _pixels(config: BaseRunConfig) -> int:
    """Return the number of values in a picture that the run's model draws."""
    c, h, w = config.model.image_shape
    if config.model.codec is None:
        return c * h * w
    factor, _, channels = layout(config.model.codec)
    return channels * h * w * factor**2


def _by_disk(needs: dict[Path, dict[str, int]]) -> list[tuple[Path, dict[str, int]]]:
    """Group the needs of folders by disk; folders on one disk are combined under the first."""
    found: dict[int, tuple[Path, dict[str, int]]] = {}
    for place, own in needs.items():
        found.setdefault(_existing(place).stat().st_dev, (place, {}))[1].update(own)
    return list(found.values())


def _existing(place: Path) -> Path:
    """Return the folder, or the nearest folder above it that exists."""
    place = place.expanduser().resolve()
    return next(each for each in (place, *place.parents) if each.exists())
