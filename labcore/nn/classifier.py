"""A small convolutional classifier: the network that judges samples and edits (`labcore.zoo.load_classifier`).

Its methods `forward_intermediates`, `forward_features`, `forward_head` and `get_classifier`, and `feature_info`, are those of a
timm network, so that `labcore.encoders` takes tokens and features from it as from any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from labcore.config import Config, Pixels, Width
from labcore.finite import DIVERGED, check_result, is_looked_at
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
        logits = self.head(self.forward_head(self.forward_features(x), pre_logits=True))
        if is_looked_at(logits, self.training):
            check_result(logits, "the classifier", advice=DIVERGED)
        return logits

    @property
    def feature_info(self) -> list[dict[str, int]]:
        """Channels of the maps of `forward_intermediates`: the first two stages, at full and at half size."""
        return [{"num_chs": self.config.width * 2**stage} for stage in range(2)]

    def forward_intermediates(
        self,
        x: Float[Tensor, "b c h w"],
        indices: Sequence[int],
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Float[Tensor, "b d g g"], list[Tensor]]:
        """Maps after the stages in `indices` (ascending), and the map of `forward_features` first, unless `intermediates_only`.

        x: at the size to be used; nothing is resized here.
        """
        maps, ends = [], [2 * stage + 2 for stage in range(2)]
        done = 0
        for index in indices:
            x = self.layers[done : ends[index]](x)
            done = ends[index]
            maps.append(x)
        return maps if intermediates_only else (self.layers[done:](x), maps)

    def forward_features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d g g"]:
        """The last convolutional map, normalised and rectified, at a quarter of the size of x."""
        return self.layers(x)

    def forward_head(self, features: Float[Tensor, "b d g g"], pre_logits: bool = True) -> Float[Tensor, "b d"]:
        """The penultimate layer: the mean over positions of `forward_features`; with `pre_logits=False`, the logits."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.head(pooled)

    def get_classifier(self) -> nn.Linear:
        """The linear map from the penultimate layer to the logits."""
        return self.head
