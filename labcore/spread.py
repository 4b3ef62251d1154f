"""Some images of a data set, evenly spread: a folder of classes is sorted by class, and its first images are of one class."""

from __future__ import annotations

from typing import TypeVar

from labcore.reading import Images

D = TypeVar("D", bound=Images)


def spread_rows(length: int, most: int | None) -> list[int]:
    """Up to `most` rows of `length`, evenly spread and in order; None: all of them."""
    if most is None or most >= length:
        return list(range(length))
    return [i * length // most for i in range(most)]


def spread(images: D, most: int | None) -> D:
    """Up to `most` images of a data set, evenly spread over it; None: all."""
    if most is None or most >= len(images):
        return images
    return images.subset(spread_rows(len(images), most))
