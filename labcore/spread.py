"""Some images of a data set, evenly spread: a folder of classes is sorted by class, and its first images are of one class."""

from __future__ import annotations

from typing import Any


def spread_rows(length: int, most: int | None) -> list[int]:
    """Up to `most` rows of `length`, evenly spread and in order; None: all of them."""
    if most is None or most >= length:
        return list(range(length))
    return [i * length // most for i in range(most)]


def spread(images: Any, most: int | None) -> Any:
    """Up to `most` images of a data set, evenly spread over it; None: all. What has no `subset` becomes torch's Subset."""
    if most is None or most >= len(images):
        return images
    rows = spread_rows(len(images), most)
    if hasattr(images, "subset"):
        return images.subset(rows)
    from torch.utils.data import Subset

    return Subset(images, rows)
