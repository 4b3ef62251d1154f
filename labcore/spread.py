"""Choice of some images of a data set, evenly spread, because the first images of a folder of classes are of one class."""

from __future__ import annotations

from typing import TypeVar

from labcore.reading import Images

D = TypeVar("D", bound=Images)


def spread_rows(length: int, most: int | None) -> list[int]:
    """Return up to `most` of `length` rows, evenly spread and in order; None: all rows."""
    if most is None or most >= length:
        return list(range(length))
    return [i * length // most for i in range(most)]


def spread(images: D, most: int | None) -> D:
    """Return up to `most` images of a data set, evenly spread; None: all."""
    if most is None or most >= len(images):
        return images
    return images.subset(spread_rows(len(images), most))


def check_limit(limit: int | None) -> None:
    """Raise ValueError for a number of images below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit was {limit}; give at least 1 image, or None for all")
