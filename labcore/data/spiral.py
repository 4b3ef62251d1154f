"""Pictures of two grey pixels from a density that is known: normals along the arms of a spiral, an arm a class.

What a flow should have learned of photographs nobody knows. Here density, score, classes, guidance and the best denoiser are
sums over a few normals, so everything a flow says of such pictures can be laid beside what is true of them.
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
"""Normals of an arm, the radii of its first and last, and by how many radians it turns a unit of radius; our choice."""
ALONG, ACROSS = 0.085, 0.05
"""Standard deviations of a normal along and across its arm; our choice."""


class SpiralData(HeldPictures):
    """Pictures drawn from a spiral: a `labcore.data.Dataset`. image_size is (1, 2), as the pictures are not square."""

    name, split = "spiral", "drawn"

    def __init__(self, images: UInt8[Tensor, "n 1 1 2"], labels: Int64[Tensor, " n"], classes: tuple[str, ...]):
        self.images, self.labels, self.classes = images, labels, classes

    @property
    def tensors(self) -> tuple[UInt8[Tensor, "n 1 1 2"], Int64[Tensor, " n"]]:
        """The pictures and their labels."""
        return self.images, self.labels

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.images.shape[-2:]
        return height, width

    def fingerprint(self) -> str:
        """16 hex digits of the sha256 over pictures, labels and number of classes."""
        return sha256_of([checksum({"images": self.images, "labels": self.labels}), self.num_classes])[:16]


class Spiral:
    """`classes` arms of equal weight, each a mixture of LINKS equally heavy normals.

    Pictures are (b, 1, 1, 2); nearly all have both pixels in [-1, 1]. `noise_std` everywhere is that of normal noise added to
    the picture, as training adds it: the mixture stays one, with wider normals. y: int64 (b,), -1 or None for any class.
    Raises ValueError for fewer than one class.
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
        """`num` pictures as training takes them, uint8 (1, 1, 2), of classes in turn.

        Greys are rounded to 256, which moves a pixel by less than 0.004; the rare pixel beyond black or white is cut off.
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
        """log p(x | y) in nats."""
        return self._weighted(x, y, noise_std).logsumexp((1, 2)).to(x)

    def class_posterior(self, x: Float[Tensor, "b 1 1 2"], noise_std: float = 0.0) -> Float[Tensor, "b k"]:
        """p(y | x), all classes being as likely."""
        return self._weighted(x, None, noise_std).logsumexp(2).softmax(1).to(x)

    def score(
        self, x: Float[Tensor, "b 1 1 2"], y: Int[Tensor, " b"] | None = None, noise_std: float = 0.0
    ) -> Float[Tensor, "b 1 1 2"]:
        """The gradient of log p(x | y) in x: each normal's pull to its mean, by its share of the density at x."""
        return (self._shares(x, y, noise_std) * self._pulls(x, noise_std)).sum((1, 2)).view_as(x).to(x)

    def clean(
        self, x: Float[Tensor, "b 1 1 2"], y: Int[Tensor, " b"] | None = None, noise_std: float = 0.0
    ) -> Float[Tensor, "b 1 1 2"]:
        """E[picture | x]: what a picture was, on average, before noise made it x; no denoiser has a smaller squared error."""
        of_each = self.means - (self.covariances @ self._pulls(x, noise_std)[..., None])[..., 0]
        return (self._shares(x, y, noise_std) * of_each).sum((1, 2)).view_as(x).to(x)

    def guided(
        self, x: Float[Tensor, "b 1 1 2"], y: Int[Tensor, " b"], w: float, noise_std: float = 0.0
    ) -> Float[Tensor, " b"]:
        """log p(x | y)^(1 + w) / p(x)^w, which classifier-free guidance is said to sample from; not normalised."""
        return (1 + w) * self.log_prob(x, y, noise_std) - w * self.log_prob(x, None, noise_std)

    def _noisy(self, noise_std: float) -> Tensor:
        return self.covariances + noise_std**2 * torch.eye(2, dtype=torch.float64)

    def _weighted(self, x: Tensor, y: Tensor | None, noise_std: float) -> Float[Tensor, "b k m"]:
        """log of each normal's density at x times its weight in p(. | y); minus infinity for those of other classes."""
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
    """Of an arm and of what stands across it, against the ray from the centre."""
    slant = torch.atan(TURN * radius)
    return slant, slant + math.pi / 2
