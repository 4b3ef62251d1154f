"""A batch of images that are evenly spread over a data set."""

from __future__ import annotations

import torch

from labcore.data.loaders import Numbered
from labcore.data.protocol import Dataset
from labcore.spread import spread_rows
from labcore.types import Batch


def spread_images(data: Dataset, most: int, labels: bool, device: torch.device | str = "cpu") -> Batch:
    """Return up to `most` images as a batch on `device`, evenly spread over the data set.

    A folder of classes is sorted by class, so the first images would all have one class. labels: False leaves y None.
    """
    num = min(most, len(data))
    pixels, y, index = Numbered(data).__getitems__(spread_rows(len(data), num))
    x = data.floats(pixels).to(device)
    return Batch(x, y.to(device) if labels else None, index, torch.zeros(num, dtype=torch.bool, device=device))
