"""Bayes classification with a conditional flow: argmax_y log p(x | y), uniform prior, one pass per class.

ml-tarflow's MNIST notebook does this on clean images. It is exact and costs K passes; `labcore.evaluate.classify`
(FlowBack) approximates it in one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labcore.data.protocol import Dataset
from labcore.evaluate.accuracy import (
    Accuracy,
    accuracy,
    require_classes,
    require_finite_images,
    require_finite_scores,
    wilson,
)
from labcore.flows.tarflow import TarFlow
from labcore.progress import Progress

__all__ = ["Accuracy", "bayes_accuracy", "bayes_classify", "bayes_scores", "wilson"]


@torch.no_grad()
def bayes_scores(flow: TarFlow, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
    """Return log p(x | y = k) in nats for every class k, (b, k), with one forward pass per class.

    Raises ValueError for an unconditional flow, images that do not fit it, and images or scores that are not finite.
    """
    labels = torch.arange(require_classes(flow), device=x.device)
    flow.check_images(x)
    require_finite_images(x)
    scores = torch.stack([flow.log_prob(x, label.expand(len(x))) for label in labels], dim=1)
    require_finite_scores(scores)
    return scores


def bayes_classify(flow: TarFlow, x: Float[Tensor, "b c h w"]) -> Int[Tensor, " b"]:
    """Return the class (b,), int64, under which each clean image is most likely.

    Args:
        flow: a conditional flow.
        x: clean images (b, c, h, w) in [-1, 1].

    Raises:
        ValueError: the flow is unconditional, images do not fit it, or images or scores are not finite.
    """
    return bayes_scores(flow, x).argmax(dim=1)


def bayes_accuracy(
    flow: TarFlow,
    dataset: Dataset,
    limit: int | None = None,
    batch_size: int = 250,
    progress: Progress | None = None,
) -> Accuracy:
    """Measure the accuracy of `bayes_classify` on `limit` images, evenly spread (None: all); errors as `accuracy`."""
    return accuracy(bayes_classify, flow, dataset, limit, batch_size, progress)
