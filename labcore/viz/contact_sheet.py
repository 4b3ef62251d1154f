"""A contact sheet: some pictures of each class, one row for each class, with the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from labcore.data.transforms import to_float
from labcore.viz.class_labels import class_names
from labcore.viz.sheet import save_grid

ROWS = 60
"""Largest number of classes on a sheet; if there are more, the first ones are shown. Our choice."""
SIDE = 64
"""Smallest side of a picture on the sheet, in pixels; our choice."""


def contact_sheet(
    samples: Sequence[Sequence[UInt8[Tensor, "c s s"]]], classes: Sequence[str], most: int = ROWS
) -> dict[str, Any]:
    """Return the arguments of `image_grid` and `save_grid` for up to `most` classes: images, columns and names of the rows.

    samples: pictures of class 0, 1, ...; classes without pictures have no row. Raises ValueError if there is no picture.
    """
    labels = [label for label, pictures in enumerate(samples) if pictures][:most]
    if not labels:
        raise ValueError("there are no pictures for a contact sheet; give at least one")
    columns = max(len(samples[label]) for label in labels)
    first = samples[labels[0]][0]
    sheet = torch.full((len(labels), columns, *first.shape), 255, dtype=torch.uint8)
    for row, label in enumerate(labels):
        for column, picture in enumerate(samples[label]):
            sheet[row, column] = picture
    return {"x": to_float(sheet.flatten(0, 1)), "columns": columns, "row_names": class_names(labels, classes)}


def save_contact_sheet(
    samples: Sequence[Sequence[UInt8[Tensor, "c s s"]]], classes: Sequence[str], path: str | Path
) -> int:
    """Write a PNG of `contact_sheet`; return the number of classes shown. Raises as `contact_sheet`."""
    sheet = contact_sheet(samples, classes)
    scale = max(1, -(-SIDE // sheet["x"].shape[-1]))
    save_grid(path=path, scale=scale, **sheet)
    return len(sheet["row_names"])
