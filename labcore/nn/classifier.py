"""A small convolutional classifier. The shipped one judges samples and edits (`labcore.zoo.load_classifier`).

`forward_intermediates`, `forward_features`, `forward_head`, `get_classifier` and `feature_info` are the interface of a timm
network, so `labcore.encoders` can take tokens and features from the classifier.
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
    """Configuration: three stages of residual convolutions; each has half the size and twice the width of the previous one."""

    image_size: Pixels = 28
    channels: Width = 1
    num_classes: Width = 10
    width: Width = 16  # channels of the first stage, a multiple of 8


class Residual(nn.Module):
    """Residual block: h plus two normalised 3x3 convolutions of h; h is (b, width, h, w)."""

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
    """Classifier with the architecture of `config`: images (b, c, h, w) of any size to logits (b, k)."""

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
        """Return logits (b, k) of images x in [-1, 1], which are resized bilinearly to the size of the configuration.

        In eval mode, raises NotFinite for logits that are not finite.
        """
        size = self.config.image_size
        if x.shape[-1] != size:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        logits = self.head(self.forward_head(self.forward_features(x), pre_logits=True))
        if is_looked_at(logits, self.training):
            check_result(logits, "the classifier", advice=DIVERGED)
        return logits

    @property
    def feature_info(self) -> list[dict[str, int]]:
        """Channels of the maps of `forward_intermediates`: those of the first two stages, at full and at half size."""
        return [{"num_chs": self.config.width * 2**stage} for stage in range(2)]

    def forward_intermediates(
        self,
        x: Float[Tensor, "b c h w"],
        indices: Sequence[int],
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Float[Tensor, "b d g g"], list[Tensor]]:
        """Return the maps after the stages in `indices`, preceded by the map of `forward_features`.

        Args:
            x: images (b, c, h, w) in [-1, 1]; they are not resized.
            indices: numbers of stages, 0 or 1, in ascending order.
            stop_early: has no effect; part of timm's interface.
            intermediates_only: return only the list of maps, and do not compute later layers; default False.
        """
        maps, ends = [], [2 * stage + 2 for stage in range(2)]
        done = 0
        for index in indices:
            x = self.layers[done : ends[index]](x)
            done = ends[index]
            maps.append(x)
        return maps if intermediates_only else (self.layers[done:](x), maps)

    def forward_features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d g g"]:
        """Return the last convolutional map (b, d, g, g), normalised and rectified, at a quarter of the size of x."""
        return self.layers(x)

    def forward_head(self, features: Float[Tensor, "b d g g"], pre_logits: bool = True) -> Float[Tensor, "b d"]:
        """Return the mean over positions of `forward_features`, (b, d); with `pre_logits=False`, the logits (b, k)."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.head(pooled)

    def get_classifier(self) -> nn.Linear:
        """Return the linear layer that computes the logits."""
        return self.head
