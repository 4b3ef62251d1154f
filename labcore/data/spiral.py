"""Pictures of two grey pixels with a known density: normal distributions along the arms of a spiral, one arm for each class.

The true density of photographs is unknown. Here density, score, class probabilities, guided density and the best denoiser are
sums over a few normal distributions, so all results of a flow can be compared with exact values.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor
from torch.distributions import Categorical, MultivariateNormal

from labcore.data.picture_set import HeldPictures
from labcore.files import sha256_of
from labcore.rng import generator
from labcore.tensors import checksum

LINKS, FROM, TO, TURN = 6, 0.25, 0.85, 1.8
"""Normals in an arm; radius of the first and of the last one; turn of an arm in radians per unit of radius. Our choice."""
ALONG, ACROSS = 0.085, 0.05
"""Standard deviations of a normal along and across its arm; our choice."""


class SpiralData(HeldPictures):
    """Pictures drawn from a spiral: a `labcore.data.protocol.Dataset` with image_size (1, 2)."""

    name, split = "spiral", "drawn"

    def __init__(self, images: UInt8[Tensor, "n 1 1 2"], labels: Int64[Tensor, " n"], classes: tuple[str, ...]):
        self.images, self.labels, self.classes = images, labels, classes

    @property
    def tensors(self) -> tuple[UInt8[Tensor, "n 1 1 2"], Int64[Tensor, " n"]]:
        """Return the pictures and their labels."""
        return self.images, self.labels

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.images.shape[-2:]
        return height, width

    def fingerprint(self) -> str:
        """Return 16 hex digits of a sha256 over pictures, labels and number of classes."""
        return sha256_of([checksum({"images": self.images, "labels": self.labels}), self.num_classes])[:16]


class Spiral:
    """A density with `classes` arms of equal weight; each arm is a mixture of LINKS normals of equal weight.

    Pictures are (b, 1, 1, 2); nearly all have both pixels in [-1, 1]. In all methods, noise_std is the standard deviation of
    normal noise that is added to the pictures, as in training; the density then is a mixture of wider normals. y is int64
    (b,), where -1 is "no class", or None, no class for all pictures. Raises ValueError for fewer than one class.
    """

    image_shape = (1, 1, 2)

    def __init__(self, classes: int = 3):
        if classes < 1:
            raise ValueError(f"classes was {classes}; give 1 or more")
        radius = torch.linspace(FROM, TO, LINKS, dtype=torch.float64)
        angle = TURN * radius + 2 * math.pi / classes * torch.arange(classes)[:, None]
        self.means = _direction(angle) * radius[:, None]  # (k, m, 2)
        axes = torch.stack([_direction(angle + slant) for slant in _slants(radius)], -1)
        widths = torch.tensor([ALONG, ACROSS], dtype=torch.float64)
        self.covariances = axes * widths.square() @ axes.mT  # (k, m, 2, 2)

    @property
    def num_classes(self) -> int:
        return len(self.means)

    def draw(self, num: int, seed: int) -> SpiralData:
        """Draw `num` uint8 pictures (1, 1, 2) for training; the classes alternate.

        Values are rounded to 256 greys, which changes a pixel by less than 0.004, and clipped to [-1, 1], which is rare.
        """
        random = generator(seed, "spiral")
        y = torch.arange(num) % self.num_classes
        link = torch.randint(LINKS, (num,), generator=random)
        noise = torch.randn(num, 2, 1, generator=random, dtype=torch.float64)
        points = self.means[y, link] + (torch.linalg.cholesky(self.covariances)[y, link] @ noise)[..., 0]
        pixels = ((points.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return SpiralData(pixels.view(num, *self.image_shape), y, tuple(f"arm {k}" for k in range(self.num_classes)))

    def log_prob(
        self, x: Float[Tensor, "b 1 1 2"], y: Int[Tensor, " b"] | None = None, noise_std: float = 0.0
    ) -> Float[Tensor, " b"]:
        """Return log p(x | y) in nats, (b,)."""
        return self._weighted(x, y, noise_std).logsumexp((1, 2)).to(x)

    def class_posterior(self, x: Float[Tensor, "b 1 1 2"], noise_std: float = 0.0) -> Float[Tensor, "b k"]:
        """Return p(y | x), (b, k), with equal priors of the k classes."""
        return self._weighted(x, None, noise_std).logsumexp(2).softmax(1).to(x)

    def score(
        self, x: Float[Tensor, "b 1 1 2"], y: Int[Tensor, " b"] | None = None, noise_std: float = 0.0
    ) -> Float[Tensor, "b 1 1 2"]:
        """Return the gradient of log p(x | y) with respect to x: the normals' gradients, weighted by their shares at x."""
        return (self._shares(x, y, noise_std) * self._pulls(x, noise_std)).sum((1, 2)).view_as(x).to(x)

    def clean(
        self, x: Float[Tensor, "b 1 1 2"], y: Int[Tensor, " b"] | None = None, noise_std: float = 0.0
    ) -> Float[Tensor, "b 1 1 2"]:
        """Return E[picture | x], the mean of the noiseless picture given the noisy x: the denoiser of least squared error."""
        of_each = self.means - (self.covariances @ self._pulls(x, noise_std)[..., None])[..., 0]
        return (self._shares(x, y, noise_std) * of_each).sum((1, 2)).view_as(x).to(x)

    def guided(
        self, x: Float[Tensor, "b 1 1 2"], y: Int[Tensor, " b"], w: float, noise_std: float = 0.0
    ) -> Float[Tensor, " b"]:
        """Return the log of p(x | y)^(1 + w) / p(x)^w in nats, (b,), not normalised.

        This is the density that classifier-free guidance is commonly said to sample from.
        """
        return (1 + w) * self.log_prob(x, y, noise_std) - w * self.log_prob(x, None, noise_std)

    def _noisy(self, noise_std: float) -> Tensor:
        return self.covariances + noise_std**2 * torch.eye(2, dtype=torch.float64)

    def _weighted(self, x: Tensor, y: Tensor | None, noise_std: float) -> Float[Tensor, "b k m"]:
        """Return log of (density of each normal at x, times its weight in p(. | y)); minus infinity for other classes."""
        normals = MultivariateNormal(self.means, self._noisy(noise_std))
        of_class = torch.full((len(x), self.num_classes), 1.0, dtype=torch.float64)
        if y is not None:
            of_class = torch.where((y < 0)[:, None], of_class, torch.eye(self.num_classes, dtype=torch.float64)[y])
        weights = Categorical(of_class).probs.log() - math.log(LINKS)
        weights = torch.where(of_class > 0, weights, -torch.inf)
        return normals.log_prob(x.double().view(-1, 1, 1, 2)) + weights[:, :, None]

    def _shares(self, x: Tensor, y: Tensor | None, noise_std: float) -> Float[Tensor, "b k m 1"]:
        return self._weighted(x, y, noise_std).flatten(1).softmax(1).view(len(x), *self.means.shape[:2], 1)

    def _pulls(self, x: Tensor, noise_std: float) -> Float[Tensor, "b k m 2"]:
        apart = self.means - x.double().view(-1, 1, 1, 2)
        return torch.linalg.solve(self._noisy(noise_std), apart[..., None])[..., 0]


def _direction(angle: Tensor) -> Float[Tensor, "... 2"]:
    return torch.stack([angle.cos(), angle.sin()], -1)


def _slants(radius: Tensor) -> tuple[Tensor, Tensor]:
    """Return the angles of an arm and of its normal direction, relative to the ray from the centre."""
    slant = torch.atan(TURN * radius)
    return slant, slant + math.pi / 2
