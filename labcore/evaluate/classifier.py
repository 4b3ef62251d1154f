"""A small convolutional classifier of clothes, independent of every flow and encoder: it judges samples and edits."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from labcore.config import Config, Pixels, Width
from labcore.evaluate.accuracy import Accuracy, wilson
from labcore.finite import DIVERGED, check_result, images_from, is_looked_at, require_finite
from labcore.nn.pretrained import Pretrained


class ClassifierConfig(Config):
    """Three stages of residual convolutions, each at half the size and twice the width of the one before."""

    image_size: Pixels = 28
    channels: Width = 1
    num_classes: Width = 10
    width: Width = 16  # channels of the first stage, a multiple of 8


class Residual(nn.Module):
    """h + two normalised 3x3 convolutions of it."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return h + self.layers(h)


class Classifier(Pretrained, nn.Module):
    """Images of any size to logits of the classes."""

    config_class = ClassifierConfig

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config = config
        widths = [config.width * 2**stage for stage in range(3)]
        layers = [nn.Conv2d(config.channels, widths[0], 3, padding=1), Residual(widths[0])]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), Residual(after)]
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.ReLU())
        self.head = nn.Linear(widths[-1], config.num_classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """x in [-1, 1], resized bilinearly to the size that the classifier knows. In eval mode, `labcore.finite.NotFinite` for
        logits that are not finite."""
        size = self.config.image_size
        if x.shape[-1] != size:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        logits = self.head(self.layers(x).mean((2, 3)))
        if is_looked_at(logits, self.training):
            check_result(logits, "the classifier", advice=DIVERGED)
        return logits


@torch.no_grad()
def recognised(
    classifier: Classifier, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], batch_size: int = 500
) -> Accuracy:
    """Share of the images that are recognised as of their class, with its 95% interval.

    Raises ValueError for no images, for another number of labels, and for images that are not finite, of which nothing can be
    recognised.
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
