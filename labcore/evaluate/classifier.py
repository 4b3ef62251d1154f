"""Share of images that a classifier recognises. The network is `labcore.nn.classifier`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labcore.evaluate.accuracy import Accuracy, wilson
from labcore.finite import DIVERGED, check_result, images_from, require_finite
from labcore.nn.classifier import Classifier


@torch.no_grad()
def recognised(
    classifier: Classifier, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], batch_size: int = 500
) -> Accuracy:
    """Return the share of images that the classifier assigns to their class, with its 95% interval.

    Raises ValueError for no images, for a different number of labels, and for images that are not finite.
    """
    if not len(x) == len(y) > 0:
        raise ValueError(
            f"x has {len(x)} images and y {len(y)} labels; give at least one image, and one label for each"
        )
    require_finite(x, "x", "leave these images out, or count them as not recognised")
    device, right = classifier.head.weight.device, 0
    for start, a, b in zip(range(0, len(x), batch_size), x.split(batch_size), y.split(batch_size), strict=True):
        with images_from(start):
            logits = classifier(a.to(device))
            check_result(logits, "the classifier", advice=DIVERGED)
        right += int((logits.argmax(1) == b.to(device)).sum())
    return wilson(right, len(x))
