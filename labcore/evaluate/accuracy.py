"""Accuracy of a classifier made of a flow, as a proportion with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labcore.data.loaders import in_order
from labcore.data.protocol import Dataset
from labcore.flows.tarflow import TarFlow
from labcore.progress import Progress
from labcore.spread import check_limit, spread, spread_rows


class Accuracy(NamedTuple):
    """Share of n images that are classified correctly, with its 95% Wilson interval."""

    accuracy: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.accuracy:.1%} ({self.low:.1%} to {self.high:.1%}, n = {self.n})"


class Guessing(NamedTuple):
    """Accuracy of always giving the same answer, which is the most frequent class of the images."""

    accuracy: float
    answer: str

    def __str__(self) -> str:
        return f"{self.accuracy:.1%}, always {self.answer}"


def guessing(dataset: Dataset) -> Guessing:
    """Return the accuracy of guessing the labels of a data set with classes."""
    counts = dataset.labels.bincount()
    return Guessing(int(counts.max()) / len(dataset), dataset.classes[int(counts.argmax())])


def wilson(right: int, total: int, z: float = 1.959964) -> Accuracy:
    """Return a proportion with Wilson's 95% interval. Raises ValueError unless 0 <= right <= total and total >= 1."""
    if not (total >= 1 and 0 <= right <= total):
        raise ValueError(f"{right} right of {total}; a proportion needs 1 image or more, and 0 to all of them right")
    p = right / total
    centre, spread = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    scale = 1 + z * z / total
    # rounding may leave [0, 1] where none or all are right
    return Accuracy(p, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale), total)


def accuracy(
    classifier: Callable[[TarFlow, Tensor], Tensor],
    flow: TarFlow,
    dataset: Dataset,
    limit: int | None = None,
    batch_size: int = 250,
    progress: Progress | None = None,
) -> Accuracy:
    """Measure the accuracy of `classifier` on clean images, without noise.

    Args:
        classifier: called with the flow and images x (b, c, h, w) of the flow's dtype; returns labels (b,).
        flow: a conditional flow.
        dataset: images with labels of the flow's classes.
        limit: number of images, evenly spread; None: all.
        batch_size: images at a time.
        progress: called after each batch; None (default): not called.

    Raises:
        ValueError: the flow is unconditional; the data set is empty, has another number of classes than the flow or
            labels outside the flow's classes (such as -1); or limit or batch size is below 1.
    """
    classes = require_classes(flow)
    if dataset.num_classes != classes:
        raise ValueError(
            f"the data set has {dataset.num_classes} classes and the flow {classes}; give the data that the "
            "flow was trained on, or a flow trained on these classes"
        )
    check_limit(limit)
    if batch_size < 1:
        raise ValueError(f"batch_size was {batch_size}; give at least 1 image")
    if len(dataset) == 0:
        raise ValueError("the data set has no images; give at least 1")
    rows, dataset = spread_rows(len(dataset), limit), spread(dataset, limit)
    right = total = 0
    for pixels, labels in in_order(dataset, batch_size):
        truth = _checked_labels(torch.as_tensor(labels), classes, rows[total:])
        found = classifier(flow, dataset.floats(pixels).to(flow.device, flow.dtype)).cpu()
        right, total = right + int((found == truth).sum()), total + len(pixels)
        if progress is not None:
            progress("images classified", total, len(rows))
    return wilson(right, total)


def require_classes(flow: TarFlow) -> int:
    """Return the number of classes of a conditional flow; ValueError for an unconditional one."""
    if flow.config.num_classes == 0:
        raise ValueError(
            "this flow is unconditional (num_classes=0), and classification needs a class-conditional one; train it with "
            "num_classes set to the classes of the data"
        )
    return flow.config.num_classes


def require_finite_images(x: Tensor) -> None:
    """Raise ValueError for images with NaN or infinity."""
    if not bool(x.isfinite().all()):
        raise ValueError("x holds NaN or infinity; give clean images in [-1, 1], as labcore.data.to_float makes them")


def require_finite_scores(scores: Tensor) -> None:
    """Raise ValueError if an image has a class score (b, k) that is not finite."""
    if not bool(scores.isfinite().all()):
        raise ValueError(
            f"the scores of {int((~scores.isfinite()).any(dim=1).sum())} of {len(scores)} images are not finite: the flow "
            "diverged, or the images are far from [-1, 1]"
        )


def _checked_labels(labels: Tensor, classes: int, rows: Sequence[int]) -> Tensor:
    """Return the labels of these rows of a data set; ValueError for one that is not a class."""
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"image {rows[i]} has the label {labels[i].item()}, and the flow's classes are 0..{classes - 1}; leave images "
            "without a class out"
        )
    return labels
