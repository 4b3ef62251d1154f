"""Bayes classification with a conditional flow: argmax_y log p(x | y), uniform prior, one pass per class.

ml-tarflow's MNIST notebook does this on clean images. It is exact and costs K passes; FlowBack's one-pass classification
approximates it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
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


@torch.no_grad()
def bayes_scores(flow: TarFlow, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
    """log p(x | y = k) in nats for every class k; one forward pass per class over the same clean images."""
    classes = flow.config.num_classes
    if classes == 0:
        raise ValueError(
            "this flow is unconditional (num_classes=0); Bayes classification needs a class-conditional one"
        )
    labels = torch.arange(classes, device=x.device)
    return torch.stack([flow.log_prob(x, label.expand(len(x))) for label in labels], dim=1)


def bayes_classify(flow: TarFlow, x: Float[Tensor, "b c h w"]) -> Int[Tensor, "b"]:
    """The class that makes each clean image most likely."""
    return bayes_scores(flow, x).argmax(dim=1)


def bayes_accuracy(flow: TarFlow, dataset: Any, limit: int | None = None, batch_size: int = 250) -> Accuracy:
    """Accuracy of `bayes_classify` on the first `limit` images of `dataset` (None: all)."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit was {limit}; give at least 1 image, or None for all")
    right = total = 0
    for pixels, labels in in_order(dataset, batch_size):
        if limit is not None and total >= limit:
            break
        keep = len(pixels) if limit is None else min(len(pixels), limit - total)
        found = bayes_classify(flow, to_float(pixels[:keep]).to(flow.device, flow.dtype)).cpu()
        right, total = right + int((found == labels[:keep]).sum()), total + keep
    return wilson(right, total)


def wilson(right: int, total: int, z: float = 1.959964) -> Accuracy:
    """A proportion with Wilson's 95% interval."""
    p = right / total
    centre, spread = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    scale = 1 + z * z / total
    return Accuracy(p, (centre - spread) / scale, (centre + spread) / scale, total)
