"""Two measures of pictures without a network: power at high frequencies and variance within a class, relative to real images.

    power_pixels     ln(P / P_real), P the mean power at high frequencies; 0 for real images, below 0 for blurred ones, above
                     0 for noisy ones. After the radial power spectrum of Durall, Keuper, Keuper (arXiv 2003.01826): the power
                     of frequency f is |FFT(x)(f)|^2 / (h w), averaged over images, channels and all f of a ring
                     r = round(|f|), f in cycles an image; P is the mean over the rings n/4 < r <= n/2, which lie above half
                     the Nyquist frequency. This threshold, no window, and the mean before the logarithm are our choice
    variance_pixels  mean over the drawn classes of V_k / V_k_real, V_k the unbiased variance over the images of class k,
                     averaged over pixels; 1 for real images, below 1 for images that are too similar. Our choice

x are pixels in [-1, 1] of square images, n pixels along a side. Values near 0, or near 1, are best. Both are computed in
float64 from one number per image: its power, and its squared distance to the mean of its class. Intervals are those of
`labcore.evaluate.fidelity`; for variances they treat the means of the classes as exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from labcore import provenance
from labcore.data.protocol import Dataset
from labcore.evaluate.fidelity import (
    FEWEST,
    RESAMPLES,
    FidelityRecord,
    Statistic,
    check_request,
    described,
    metric_of,
    split_name,
)
from labcore.evaluate.fidelity import NAMES as OF_FEATURES
from labcore.evaluate.statistics import describe
from labcore.reading import parts_of

NAME = "pixels"
METRICS = ("power", "variance")
NAMES = tuple(f"{metric}_{NAME}" for metric in METRICS)
VERSION = 1
"""Version of the definitions above; part of every record and of the key of a stored reference."""
CUTOFF = 0.5
"""Share of the Nyquist frequency above which power is measured."""
HALF = 127.5
"""Pixels 0..255 that are 1 of x, which is in [-1, 1]."""
PART = 512
"""Images in memory at a time; no result depends on it but by rounding."""


class Pixels:
    """Replacement for an extractor: the name, the suffix and the identity of these measures."""

    name, suffix = NAME, f"_{NAME}"
    identity: ClassVar[dict[str, Any]] = {
        "extractor": NAME,
        "feature_version": VERSION,
        "cutoff": CUTOFF,
        "resize": "none",
    }


@dataclass(frozen=True)
class PixelReference:
    """Statistics of real images. power: P. variance: V_k by class (NaN below 2 images). about: as in `statistics.Reference`."""

    power: float
    variance: Float64[Tensor, " k"]
    about: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values; `from_dict` reads them."""
        variance = [None if math.isnan(v) else v for v in self.variance.tolist()]
        return {"power": self.power, "variance": variance, "about": self.about}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PixelReference:
        """Read the values of `as_dict`. Raises KeyError, TypeError or ValueError for anything else."""
        variance = [math.nan if v is None else float(v) for v in values["variance"]]
        return cls(float(values["power"]), torch.tensor(variance, dtype=torch.float64), dict(values["about"]))


def high_power(x: Float[Tensor, "b c n n"], cutoff: float = CUTOFF) -> Float64[Tensor, " b"]:
    """Return the mean power of each image on the rings cutoff n/2 < r <= n/2. ValueError for images without such rings."""
    n = x.shape[-1]
    axis = torch.fft.fftfreq(n, dtype=torch.float64) * n
    rings = (axis[:, None] ** 2 + axis[None] ** 2).sqrt().round().long()
    high = [r for r in range(1, n // 2 + 1) if r > cutoff * n / 2]
    if not high:
        raise ValueError(f"images of {n} pixels have no frequencies above {cutoff:g} of Nyquist; give larger ones")
    power = torch.fft.fft2(x.double(), norm="ortho").abs().square().mean(1)
    return torch.stack([power[:, rings == r].mean(1) for r in high]).mean(0)


def squared_distances(dataset: Dataset, classes: int) -> Float64[Tensor, " n"]:
    """Return n_k / (n_k - 1) |x - mean of its class|^2 / values of x for each image; the mean over class k is the unbiased V_k.

    NaN for images without a class (label below 0) and for the image of a class that has one only.
    """
    sums = _ClassSums(classes, dataset)
    for pixels, y in _parts(dataset):
        sums.add(pixels, y)
    count = sums.count
    means = sums.total / count.clamp_min(1)[:, None]
    found = []
    for pixels, y in _parts(dataset):
        distance = (pixels.flatten(1) - means[y.clamp_min(0)]).square().mean(1) / HALF**2
        n = count[y.clamp_min(0)]
        unbiased = distance * n / (n - 1)
        found.append(torch.where((y >= 0) & (n > 1), unbiased, math.nan))
    return torch.cat(found)


def make_pixel_reference(dataset: Dataset, test: Dataset | None = None) -> PixelReference:
    """Compute statistics of all images of `dataset` (of labcore.data); with `test`, also the floor from held-out images."""
    classes, powers = len(dataset.classes), []
    sums = _ClassSums(classes, dataset)
    for pixels, y in _parts(dataset):
        powers.append(high_power(_scaled(pixels)))
        sums.add(pixels, y)
    power = float(torch.cat(powers).mean())
    if power <= 0:
        raise ValueError(f"{dataset.name} has no power above {CUTOFF:g} of Nyquist: are its images constant?")
    about = {**describe(dataset, Pixels), "classes": list(dataset.classes), "made_with": provenance.stamp()}
    reference = PixelReference(power, sums.variance() / HALF**2, about)
    if test is None or len(test) < FEWEST:
        return reference
    possible = [m for m in METRICS if m == "power" or _comparable(reference, test)]
    record = pixel_measures(test, reference, possible, resamples=0)
    values = {name.removesuffix(Pixels.suffix): m.value for name, m in record.measures.items()}
    floor = {"data": f"{test.name}/{test.split}", "n": len(test), "values": values}
    return PixelReference(reference.power, reference.variance, {**about, "floor": floor})


def pixel_measures(
    images: Dataset,
    reference: PixelReference,
    metrics: Sequence[str] = METRICS,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> FidelityRecord:
    """Measure `power` and `variance` of generated images; arguments and record as `labcore.evaluate.fidelity.fidelity`.

    images: uint8, with labels numbered as the reference's classes. Raises ValueError for unknown metrics, fewer than 100
    images, images of another size, and for `variance` if images have no class or a class has fewer than 2 images.
    """
    check_request(metrics, METRICS, seed, resamples)
    check_pixels(metrics, _labels(images))
    for what in ("image_size", "channels"):
        if (given := getattr(images, what)) != (real := reference.about[what]):
            raise ValueError(f"images have {what} {given}, and the real images {real}; give images of one size")
    measures, values = {}, reference.about.get("floor", {}).get("values", {})
    for metric in metrics:
        name, statistic = f"{metric}_{NAME}", (_power if metric == "power" else _variance)(images, reference)
        measures[name] = metric_of(name, statistic, len(images), seed, resamples, values.get(metric))
    made = getattr(images, "made", {"data": f"{images.name}/{images.split}"})
    made_with = {"seed": seed, **provenance.stamp("timm", "torch-fidelity")}
    return FidelityRecord(measures, made, described(reference), resamples, made_with)


def split_judge(name: str) -> tuple[str, str]:
    """Split a name into (metric, judge), as ("fid", "efflite0") or ("power", "pixels"); ValueError lists the names."""
    if name in NAMES:
        return name.removesuffix(Pixels.suffix), NAME
    if name not in OF_FEATURES:
        raise ValueError(f"metric {name!r} is unknown; the names are {', '.join((*OF_FEATURES, *NAMES))}")
    return split_name(name)


def check_pixels(metrics: Sequence[str], labels: Int64[Tensor, " n"]) -> None:
    """Raise ValueError for too few images, and for `variance` if images have no class or are the only one of a class.

    labels: those of the images, or those that they will have when drawn (-1 for no class).
    """
    check_number(metrics[0], n := len(labels))
    if "variance" not in metrics:
        return
    if bool((labels < 0).any()):
        raise ValueError(f"variance_{NAME} compares images of one class, and some have no class; leave it out")
    if few := _few(labels):
        raise ValueError(f"variance_{NAME} needs 2 images of each class drawn; {_named(few)} of {n} images: draw more")


def check_number(metric: str, n: int) -> None:
    """Raise ValueError for too few images."""
    if n < FEWEST:
        raise ValueError(f"{metric}_{NAME} needs at least {FEWEST} generated images, given {n}: draw more")


def _power(images: Dataset, reference: PixelReference) -> Statistic:
    power = torch.cat([high_power(_scaled(pixels)) for pixels, _ in _parts(images)])

    def statistic(half: Int64[Tensor, " m"] | None, _: int) -> float:
        mean = float((power if half is None else power[half]).mean())
        return math.log(mean / reference.power) if mean > 0 else -math.inf

    return statistic


def _variance(images: Dataset, reference: PixelReference) -> Statistic:
    classes, labels = len(reference.variance), _labels(images)
    if bool((labels >= classes).any()):
        raise ValueError(f"variance_{NAME} needs images of classes 0..{classes - 1}; some have another one")
    if lacking := _lacking(reference, images):
        raise ValueError(
            f"variance_{NAME}: classes {lacking} have fewer than 2 real images, or all alike; leave it out"
        )
    ratios = squared_distances(images, classes) / reference.variance[labels]

    def statistic(half: Int64[Tensor, " m"] | None, _: int) -> float:
        value, y = (ratios, labels) if half is None else (ratios[half], labels[half])
        return float(torch.stack([value[y == k].mean() for k in y.unique()]).mean())

    return statistic


def _few(labels: Int64[Tensor, " n"]) -> list[int]:
    """Return the classes with one image."""
    found, counts = labels[labels >= 0].unique(return_counts=True)
    return found[counts == 1].tolist()


def _named(classes: Sequence[int], most: int = 5) -> str:
    more = f" and {len(classes) - most} more" if len(classes) > most else ""
    return f"classes {', '.join(map(str, classes[:most]))}{more} have 1"


def _comparable(reference: PixelReference, images: Dataset) -> bool:
    """Return whether `variance` of these images can be computed."""
    labels = _labels(images)
    return bool((labels >= 0).all()) and not _few(labels) and not _lacking(reference, images)


def _lacking(reference: PixelReference, images: Dataset) -> list[int]:
    """Return the classes of the images whose real variance is unknown, or 0."""
    return [k for k in _labels(images).unique().tolist() if not float(reference.variance[k]) > 0]


def _labels(dataset: Dataset) -> Int64[Tensor, " n"]:
    return torch.as_tensor(dataset.labels).long().cpu()


def _parts(dataset: Dataset) -> Iterator[tuple[Float64[Tensor, "b c h w"], Int64[Tensor, " b"]]]:
    """Yield pixels 0..255 as float64, and labels, some hundred images at a time."""
    parts = [range(start, min(start + PART, len(dataset))) for start in range(0, len(dataset), PART)]
    for pixels, labels in parts_of(dataset, parts, torch.device("cpu")):
        yield pixels.double(), labels.long()


def _scaled(pixels: Float64[Tensor, "b c h w"]) -> Float64[Tensor, "b c h w"]:
    """Return pixels 0..255 as x in [-1, 1]."""
    return pixels / HALF - 1


class _ClassSums:
    """Over the images of each class: their number, the sum of their pixels x (k, d), and the sum of |x|^2.

    Images without a class are left out. Sums of whole numbers are exact, so images that are all alike have variance 0.
    """

    def __init__(self, classes: int, dataset: Dataset):
        self.count, self.squared = torch.zeros(2, classes, dtype=torch.float64)
        self.total = torch.zeros(classes, dataset.channels * dataset.image_size**2, dtype=torch.float64)

    def add(self, pixels: Float64[Tensor, "b c h w"], y: Int64[Tensor, " b"]) -> None:
        """Count some images in."""
        x, y = pixels.flatten(1)[y >= 0], y[y >= 0]
        self.count.index_add_(0, y, torch.ones(len(y), dtype=torch.float64))
        self.total.index_add_(0, y, x)
        self.squared.index_add_(0, y, x.square().sum(1))

    def variance(self) -> Float64[Tensor, " k"]:
        """Return (sum |x|^2 - n |mean|^2) / ((n - 1) d) of each class; NaN below 2 images."""
        n, d = self.count, self.total.shape[1]
        found = (self.squared - (self.total.square() / n[:, None]).sum(1)) / ((n - 1) * d)
        return torch.where(n > 1, found.clamp_min(0), math.nan)
