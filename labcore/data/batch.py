"""A batch that stands for a data set: images evenly spread over it."""

from __future__ import annotations

import torch

from labcore.data.loaders import Numbered
from labcore.data.protocol import Dataset
from labcore.spread import spread_rows
from labcore.types import Batch


def spread_images(data: Dataset, most: int, labels: bool, device: torch.device | str = "cpu") -> Batch:
    """Up to `most` images as a batch, evenly spread over a data set, which a folder of classes has sorted by class."""
    num = min(most, len(data))
    pixels, y, index = Numbered(data).__getitems__(spread_rows(len(data), num))
    x = data.floats(pixels).to(device)
    return Batch(x, y.to(device) if labels else None, index, torch.zeros(num, dtype=torch.bool, device=device))
