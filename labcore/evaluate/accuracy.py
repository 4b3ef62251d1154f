"""Accuracy of a classifier made of a flow, as a proportion with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labcore.data.loaders import in_order
from labcore.data.transforms import to_float
from labcore.flows.tarflow import TarFlow


class Accuracy(NamedTuple):
    """Share of n images classified right, with its 95% Wilson interval."""

    accuracy: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.accuracy:.1%} ({self.low:.1%} to {self.high:.1%}, n = {self.n})"


def wilson(right: int, total: int, z: float = 1.959964) -> Accuracy:
    """A proportion with Wilson's 95% interval."""
    p = right / total
    centre, spread = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    scale = 1 + z * z / total
    return Accuracy(p, (centre - spread) / scale, (centre + spread) / scale, total)


def accuracy(
    classifier: Callable[[TarFlow, Tensor], Tensor],
    flow: TarFlow,
    dataset: Any,
    limit: int | None = None,
    batch_size: int = 250,
) -> Accuracy:
    """Accuracy of `classifier` on the first `limit` images of `dataset` (None: all), clean, without noise.

    classifier(flow, x (b, c, h, w) of the flow's dtype) gives labels (b,). Raises ValueError for an unconditional flow,
    for a data set with another number of classes than the flow, and for a limit or batch size below 1.
    """
    classes, given = require_classes(flow), _classes_of(dataset)
    if given not in (None, classes):
        raise ValueError(
            f"the data set has {given} classes and the flow {classes}; give the data that the flow was trained on, or a "
            "flow trained on these classes"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit was {limit}; give at least 1 image, or None for all")
    if batch_size < 1:
        raise ValueError(f"batch_size was {batch_size}; give at least 1 image")
    right = total = 0
    for pixels, labels in in_order(dataset, batch_size):
        if limit is not None and total >= limit:
            break
        keep = len(pixels) if limit is None else min(len(pixels), limit - total)
        found = classifier(flow, to_float(pixels[:keep]).to(flow.device, flow.dtype)).cpu()
        right, total = right + int((found == torch.as_tensor(labels[:keep])).sum()), total + keep
    return wilson(right, total)


def require_classes(flow: TarFlow) -> int:
    """The number of classes of a conditional flow; ValueError for an unconditional one."""
    if flow.config.num_classes == 0:
        raise ValueError(
            "this flow is unconditional (num_classes=0), and classification needs a class-conditional one; train it with "
            "num_classes set to the classes of the data"
        )
    return flow.config.num_classes


def _classes_of(dataset: Any) -> int | None:
    """Classes of a data set, also inside torch's Subset; None where it does not say."""
    while not hasattr(dataset, "num_classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return getattr(dataset, "num_classes", None)
