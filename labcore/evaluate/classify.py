"""Training-free classification: one forward and one backward pass for any number of classes.

FlowBack (arXiv 2511.22345), Algorithm 1. Logits lambda = 0 (b, k) give class probabilities p = softmax(lambda), uniform.
In every block the class embedding is the mixture p^T E (TARFlow has one table E per block, and all use the same p). The
score of class k is the slope of the log-likelihood towards it,

    g_k = d log p(x | p) / d lambda_k = (1/K) sum over blocks <d log p / d e, E_k - mean(E)>,   label = argmax_k g_k

It is a first-order approximation of Bayes classification around "no class". Images are clean: the paper does not say
whether noise is added, and ml-tarflow's notebook adds none when it classifies.
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
)
from labcore.flows.slopes import slopes
from labcore.flows.tarflow import TarFlow
from labcore.progress import Progress


def class_scores(flow: TarFlow, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
    """Return d log p(x | softmax(lambda)) / d lambda at lambda = 0, (b, k), in nats per unit of logit; each row sums to 0.

    Works inside no_grad and inference_mode, does not depend on the batch, and leaves no gradient on x or the parameters.
    Raises ValueError for an unconditional flow, images that do not fit it, and images or scores that are not finite.
    """
    classes = require_classes(flow)
    flow.check_images(x)
    require_finite_images(x)

    def slope(rows: slice) -> Tensor:
        clean = x[rows].detach().clone()
        logits = torch.zeros(len(clean), classes, dtype=x.dtype, device=x.device, requires_grad=True)
        (scores,) = torch.autograd.grad(flow.log_prob(clean, logits.softmax(dim=1)).sum(), logits)
        return scores

    scores = slopes(flow, slope, len(x))
    require_finite_scores(scores)
    return scores


def classify(flow: TarFlow, x: Float[Tensor, "b c h w"]) -> Int[Tensor, " b"]:
    """Return the class (b,), int64, with the largest of `class_scores` for each clean image.

    Args:
        flow: a conditional flow.
        x: clean images (b, c, h, w) in [-1, 1].

    Raises:
        ValueError: the flow is unconditional, images do not fit it, or images or scores are not finite.
    """
    return class_scores(flow, x).argmax(dim=1)


def training_free_accuracy(
    flow: TarFlow,
    dataset: Dataset,
    limit: int | None = None,
    batch_size: int = 250,
    progress: Progress | None = None,
) -> Accuracy:
    """Measure the accuracy of `classify` on `limit` images of `dataset`, evenly spread (None: all); errors as `accuracy`."""
    return accuracy(classify, flow, dataset, limit, batch_size, progress)
