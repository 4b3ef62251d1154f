"""Names of classes for the images of a grid: one for each column or row if it has one class, otherwise one for each image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor

LONGEST = 24
"""Largest number of characters of a shown name of a row or column; our choice."""
ELLIPSIS = "…"


def by_class(labels: Tensor | None, columns: int, classes: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Return the arguments of `image_grid` and `grid_png` that name the classes of a grid's images.

    The result has one of `column_names` (each column has one class), `row_names` (each row has one class) and `image_names`
    (otherwise). It is empty for labels None and for class probabilities.

    Args:
        labels: class numbers (b,) of the images, row by row.
        columns: number of images in a row.
        classes: names of the classes 0, 1, ...; without a name, class 3 is "class 3".
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
    """Return a name for each label, of at most 24 printable characters; no names if there are no labels.

    A label without a name is no error: class 3 is "class 3", and a negative label is "no class".
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

    Both are in one unit: pixels or points. If not even one letter fits, the result is empty.
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
    """Return matplotlib's own font for Pillow, `size` pixels high, so that both kinds of pictures look alike.

    The file is found without an import of matplotlib, which takes longer than a picture.
    """
    from importlib.util import find_spec

    from PIL import ImageFont

    (folder,) = find_spec("matplotlib").submodule_search_locations
    return ImageFont.truetype(f"{folder}/mpl-data/fonts/ttf/DejaVuSans.ttf", size)
