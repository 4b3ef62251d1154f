"""Names of classes for the images of a grid: above columns or beside rows of one class, else under each image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor

LONGEST = 24
"""Characters of a name that are shown beside a row or above a column; our choice."""
ELLIPSIS = "…"


def by_class(labels: Tensor | None, columns: int, classes: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Return the arguments of `image_grid` and `grid_png` that name the classes of a grid's images.

    labels: (b,) class numbers of the images, row by row; None, or the probabilities of classes, which have no one name, give no
    arguments. classes: the names of classes 0, 1, ...; without a name class 3 is "class 3". The result has one of
    `column_names` (each column is one class), `row_names` (each row is one class) and `image_names` (anything else).
    """
    if labels is None or labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        return {}
    numbers = labels.tolist()
    in_columns = [set(numbers[i::columns]) for i in range(min(columns, len(numbers)))]
    in_rows = [set(numbers[i : i + columns]) for i in range(0, len(numbers), columns)]
    if all(len(found) == 1 for found in in_rows):
        return {"row_names": class_names([found.pop() for found in in_rows], classes)}
    if len(in_columns) == columns and all(len(found) == 1 for found in in_columns):
        return {"column_names": class_names([found.pop() for found in in_columns], classes)}
    return {"image_names": class_names(numbers, classes)}


def class_names(labels: Tensor | Sequence[int] | None, classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return a name for each label, of at most 24 printable characters; no names where there are no labels.

    Raises nothing for a label without a name: class 3 is "class 3", and a negative label is "no class".
    """
    if labels is None or (isinstance(labels, Tensor) and (labels.ndim != 1 or labels.is_floating_point())):
        return ()
    return tuple(_name(int(label), classes or ()) for label in labels)


def _name(label: int, classes: Sequence[str]) -> str:
    if label < 0:
        return "no class"
    name = " ".join(shown(classes[label]).split()) if label < len(classes) else ""
    name = name or f"class {label}"
    return name if len(name) <= LONGEST else name[: LONGEST - 1].rstrip() + ELLIPSIS


def shown(name: str) -> str:
    """Return the name with a replacement character for each character that is not printable, line ends included."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def shortened(name: str, room: int | float, size: int) -> str:
    """Return the name, or its beginning and an ellipsis, so that it is at most `room` long; `size`: height of letters.

    Both are in one unit: pixels or points. Where not even one letter has room, the result is empty.
    """
    if length(name, size) <= room:
        return name
    for end in range(len(name) - 1, 0, -1):
        if length(short := name[:end].rstrip() + ELLIPSIS, size) <= room:
            return short
    return ""


def length(name: str, size: int) -> float:
    """Return the length of a name in the unit of its letters' height."""
    return letters(size).getlength(name)


@cache
def letters(size: int) -> Any:
    """Return matplotlib's own font for Pillow, `size` pixels high, so that both kinds of pictures look alike."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
