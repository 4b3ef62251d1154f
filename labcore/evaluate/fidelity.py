"""Quality of generated images: FID, sFID, KID, IS, precision and recall, each with a record of its origin.

    fid        Frechet distance of Gaussians fitted to pooled features (Heusel et al., arXiv 1706.08500)
    sfid       the same on spatial features (Nash et al., arXiv 2103.03841; features as ADM's evaluator takes them)
    kid        squared MMD with a cubic kernel, mean over 100 subsets (Binkowski et al., arXiv 1801.01401)
    is         inception score (Salimans et al., arXiv 1606.03498), mean over splits of 5,000 images, as ADM's evaluator
    precision  share of generated images within the manifold of real ones, 3 nearest neighbours (Kynkaanniemi et al.,
               arXiv 1904.06991); equal numbers from both sides, at most 10,000
    recall     the same with the roles exchanged

All are computed from features on disk, and all but the inception score by torch-fidelity. With the embedded extractor
they are named fid_efflite0 and so on.

Intervals are half-sample bootstrap intervals: the metric is computed on random halves of the generated images, drawn
without replacement, and the interval extends 1.96 standard deviations of these values to either side. With replacement,
repeated images would shift FID upwards and break nearest neighbours. The spread over halves estimates the standard error
at the full number (delete-half jackknife; Shao and Wu 1989). The reference is treated as exact. All of this is our
choice; papers give no intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labcore import provenance
from labcore.data.protocol import Dataset
from labcore.evaluate import extractors
from labcore.evaluate.extractors import LOGITS, POOL, SPATIAL, Extractor
from labcore.evaluate.statistics import MOST_FEATURES, Moments, Reference, check_varied, image_features, moments
from labcore.progress import Progress
from labcore.rng import generator
from labcore.store import Store

METRICS = ("fid", "sfid", "kid", "is", "precision", "recall")
NAMES = tuple(f"{metric}{extractors.suffix_of(name)}" for name in extractors.NAMES for metric in METRICS)
RESAMPLES = 40  # halves; a standard deviation good to 11%
FEWEST = 100  # images for the metrics without a covariance: our choice
MOST_SEED = 2**32 - 1  # numpy's, in torch-fidelity
BOUNDS = {
    **{"fid": (0, math.inf), "sfid": (0, math.inf), "is": (1, math.inf), "precision": (0, 1), "recall": (0, 1)},
    "variance": (0, math.inf),  # of `labcore.evaluate.pixels`
}
"""Values that a metric can have; intervals end there. An estimate of KID may be negative."""
KID_SUBSETS, KID_SIZE = 100, 1000  # torch-fidelity's and the paper's
IS_SPLIT = 5000  # images a split of the inception score, as in ADM's evaluator


class Metric(NamedTuple):
    """One metric: value, 95% interval (low, high), n generated images, and the floor (the value of held-out real images)."""

    value: float
    low: float
    high: float
    n: int
    floor: float | None

    def __str__(self) -> str:
        floor = "" if self.floor is None else f", real images {self.floor:.4g}"
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g}, n = {self.n:,}{floor})"


@dataclass(frozen=True)
class FidelityRecord:
    """Measures by name, and their origin.

    Attributes:
        measures: {name: Metric}.
        images: how they were made (seed, guidance, schedule, denoising, solver ...).
        reference: data, n, extractor, weights hash, resize, floor's n.
        resamples: number of halves.
        made_with: versions, revision, device.
        is_split: images per split of the inception score.
    """

    measures: dict[str, Metric]
    images: dict[str, Any]
    reference: dict[str, Any]
    resamples: int
    made_with: dict[str, Any]
    is_split: int = IS_SPLIT

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**vars(self), "measures": {name: measure._asdict() for name, measure in self.measures.items()}}


def split_name(name: str) -> tuple[str, str]:
    """Split a name like fid_efflite0 into (metric, extractor). Raises ValueError with all names."""
    if name not in NAMES:
        raise ValueError(f"metric {name!r} is unknown; the names are {', '.join(NAMES)}")
    metric, _, suffix = name.partition("_")
    return metric, suffix or "inception"


def check_enough(metrics: Sequence[str], extractor: Extractor | str, n: int, whose: str) -> None:
    """Raise ValueError if `n` images are too few for a metric; the message gives the needed number and an alternative.

    extractor: an extractor, or its name, so that this can be checked before weights are loaded.
    """
    widths = extractors.widths_of(extractor) if isinstance(extractor, str) else extractor.widths
    suffix = extractors.suffix_of(extractor if isinstance(extractor, str) else extractor.name)
    for metric in metrics:
        layer = {"fid": POOL, "sfid": SPATIAL}.get(metric)
        needed = FEWEST if layer is None else widths[layer] + 1
        if n < needed:
            why = (
                f"{needed - 1} features need more images than that for a covariance of full rank; kid, is, precision and "
                f"recall need {FEWEST}"
                if layer
                else "fewer give no useful estimate"
            )
            raise ValueError(f"{metric}{suffix} needs at least {needed} {whose} images, given {n}: {why}")


def fidelity(
    images: Dataset,
    reference: Reference,
    extractor: Extractor,
    metrics: Sequence[str] = METRICS,
    seed: int = 0,
    resamples: int = RESAMPLES,
    root: Path | None = None,
    progress: Progress | None = None,
) -> FidelityRecord:
    """Compare generated images with the reference.

    Args:
        images: a data set of uint8 images, from `labcore.evaluate.generate` or labcore.data. The record says how they were
            made if the data set has an attribute `made`.
        reference: statistics of real images.
        extractor: the network whose features are compared.
        metrics: names such as "fid"; see the module.
        seed: random seed of subsets, of the order of images in splits, and of halves; 0..2**32-1.
        resamples: number of halves for intervals; 0 gives no intervals.
        root: folder of stored features; default in the cache folder.
        progress: called while features are computed; default None.

    Raises:
        ValueError: a metric is unknown; images are too few or constant; the statistics have another extractor, other
            weights, another resize or size of images; the seed is out of range; or a metric is NaN or infinite.
    """
    check_request(metrics, METRICS, seed, resamples)
    reference.check(extractor, images.image_size, images.channels)
    check_enough(metrics, extractor, len(images), "generated")
    check_enough(metrics, extractor, reference.about["n"], "reference")
    features = image_features(images, extractor, root, progress)
    check_varied(features, "the model has collapsed, or drew constants; look at some")
    floor = reference.about.get("floor", {})
    measures = {}
    for i, metric in enumerate(metrics):
        if progress is not None:
            progress("metrics", i, len(metrics))
        statistic = _FUNCTIONS[metric](features, reference)
        floor_value = floor.get("values", {}).get(metric)
        name = f"{metric}{extractor.suffix}"
        measures[name] = metric_of(name, statistic, len(images), seed, resamples, floor_value)
    if progress is not None:
        progress("metrics", len(metrics), len(metrics))
    return FidelityRecord(
        measures,
        getattr(images, "made", {"data": f"{images.name}/{images.split}"}),
        described(reference),
        resamples,
        {"seed": seed, **provenance.stamp("timm", "torch-fidelity")},
    )


def check_request(metrics: Sequence[str], allowed: Sequence[str], seed: int, resamples: int) -> None:
    """Raise ValueError for no or unknown metrics, a seed that `check_seed` rejects, and too few resamples for an interval."""
    if not metrics or (unknown := set(metrics) - set(allowed)):
        raise ValueError(
            f"metrics {sorted(unknown) if metrics else '()'} are unknown; give some of {', '.join(allowed)}"
        )
    if resamples != 0 and resamples < 10:
        raise ValueError(f"resamples was {resamples}; give at least 10 for an interval, or 0 for none")
    check_seed(seed)


def described(reference: Any) -> dict[str, Any]:
    """Describe a reference for a record: a `Reference`, or a `pixels.PixelReference`."""
    about = {name: value for name, value in reference.about.items() if name not in ("schema", "made_with", "floor")}
    return {**about, "floor_n": reference.about.get("floor", {}).get("n")}


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that numpy's generator, which draws subsets and splits, does not accept."""
    if not 0 <= seed <= MOST_SEED:
        raise ValueError(f"seed was {seed}; allowed are 0..{MOST_SEED}")


def with_floor(
    reference: Reference, test: Dataset, extractor: Extractor, progress: Progress | None = None
) -> Reference:
    """Return `reference` with the metrics of held-out real images: those of a perfect model with equally many images."""
    metrics = [metric for metric in METRICS if enough(metric, extractor, min(len(test), reference.about["n"]))]
    if not metrics:
        return reference
    record = fidelity(test, reference, extractor, metrics, resamples=0, progress=progress)
    values = {name.removesuffix(extractor.suffix): measure.value for name, measure in record.measures.items()}
    floor = {"data": f"{test.name}/{test.split}", "n": len(test), "values": values}
    return Reference(reference.pool, reference.spatial, reference.features, {**reference.about, "floor": floor})


def refused(extractor: Extractor, n: int) -> list[str]:
    """Return the names of the metrics for which statistics of `n` images are too few."""
    return [f"{metric}{extractor.suffix}" for metric in METRICS if not enough(metric, extractor, n)]


def enough(metric: str, extractor: Extractor | str, n: int) -> bool:
    try:
        check_enough([metric], extractor, n, "held-out")
    except ValueError:
        return False
    return True


Statistic = Callable[[Tensor | None, int], float]
"""statistic(rows, seed): a metric of these rows of the generated images; None for all rows."""


def with_interval(statistic: Statistic, n: int, seed: int, resamples: int) -> tuple[float, float, float]:
    """Return (value, low, high) by half-sample bootstrap; low = high = value without resamples."""
    value = statistic(None, seed)
    if resamples == 0:
        return value, value, value
    of_halves = []
    for i in range(resamples):
        half = torch.randperm(n, generator=generator(seed, "half", i))[: n // 2]
        of_halves.append(statistic(half, seed))
    margin = 1.96 * float(torch.tensor(of_halves, dtype=torch.float64).std())
    return value, value - margin, value + margin


def metric_of(name: str, statistic: Statistic, n: int, seed: int, resamples: int, floor: float | None) -> Metric:
    """Return a metric of `n` images with its interval, limited to `BOUNDS`. ValueError if it is NaN or infinite.

    name: full, such as fid_efflite0.
    """
    value, low, high = with_interval(statistic, n, seed, resamples)
    if not all(map(math.isfinite, (value, low, high))):
        raise ValueError(
            f"{name} of {n} images came out as {value} ({low} to {high}): their features are too large or too alike for it; "
            "look at some images, or leave the metric out"
        )
    least, most = BOUNDS.get(name.partition("_")[0], (-math.inf, math.inf))
    return Metric(value, min(value, max(low, least)), max(value, min(high, most)), n, floor)


class Frechet:
    """Squared Frechet distance of many Gaussians to a fixed one: d^2 = |m - m'|^2 + tr(C + C' - 2 (R C R)^(1/2)),
    R = C'^(1/2), which is computed once. `exact` is torch-fidelity's own function on the same moments."""

    def __init__(self, reference: Moments):
        self.reference = reference
        values, vectors = torch.linalg.eigh(reference.cov)
        self.root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T

    def __call__(self, other: Moments) -> float:
        reference = self.reference
        # tr (R C R)^(1/2): the sum of the roots of its eigenvalues
        cross = torch.linalg.eigvalsh(self.root @ other.cov @ self.root).clamp_min(0).sqrt().sum()
        of_means = (other.mean - reference.mean).square().sum()
        return float(of_means + other.cov.trace() + reference.cov.trace() - 2 * cross)

    def exact(self, other: Moments) -> float:
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        pair = ({"mu": m.mean.numpy(), "sigma": m.cov.numpy()} for m in (other, self.reference))
        return fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]


def _frechet(layer: str) -> Callable[[Store, Reference], Statistic]:
    def metric(features: Store, reference: Reference) -> Statistic:
        rows, distance = features[layer], Frechet(getattr(reference, layer))

        def statistic(half: Tensor | None, _: int) -> float:
            return distance.exact(moments(rows)) if half is None else distance(moments(rows, half))

        return statistic

    return metric


def _kid(features: Store, reference: Reference) -> Statistic:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    rows, real = features[POOL], reference.features

    def statistic(half: Tensor | None, seed: int) -> float:
        drawn = rows if half is None else rows[half]
        size = min(KID_SIZE if half is None else KID_SIZE // 2, len(drawn), len(real))
        subsets = KID_SUBSETS if half is None else KID_SUBSETS // 5  # cheaper for the spread
        return kid_features_to_metric(
            drawn, real, kid_subsets=subsets, kid_subset_size=size, rng_seed=seed, verbose=False
        )[KEY_METRIC_KID_MEAN]

    return statistic


def _inception_score(features: Store, reference: Reference) -> Statistic:
    rows = features[LOGITS]

    def statistic(half: Tensor | None, seed: int) -> float:
        # shuffled, since data sets may be sorted by class; files of ADM's evaluator are in random order
        order = torch.randperm(len(rows), generator=generator(seed, "inception score")) if half is None else half
        return inception_score(rows[order], IS_SPLIT)

    return statistic


def inception_score(logits: Float[Tensor, "n k"], split: int) -> float:
    """Return exp of the mean KL divergence of p(class | image) from p(class), averaged over splits of `split` images in order.

    The last split is smaller if `split` does not divide n, as in ADM's evaluator (guided-diffusion,
    evaluations/evaluator.py).
    """
    scores = []
    for part in logits.split(split):
        log_p = part.double().log_softmax(1)
        log_mean = log_p.logsumexp(0) - math.log(len(part))
        scores.append((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp())
    return float(torch.stack(scores).mean())


def _manifolds(which: str) -> Callable[[Store, Reference], Statistic]:
    def metric(features: Store, reference: Reference) -> Statistic:
        from torch_fidelity.metric_prc import prc_features_to_metric

        rows = features[POOL][:MOST_FEATURES]

        def statistic(half: Tensor | None, seed: int) -> float:
            drawn = rows if half is None else rows[half[half < len(rows)]]
            real = reference.features[: len(drawn)]
            drawn = drawn[: len(real)]  # equal numbers from both sides
            return prc_features_to_metric(drawn, real, save_cpu_ram=True, verbose=False)[which]

        return statistic

    return metric


_FUNCTIONS: dict[str, Callable[[Store, Reference], Statistic]] = {
    "fid": _frechet(POOL),
    "sfid": _frechet(SPATIAL),
    "kid": _kid,
    "is": _inception_score,
    "precision": _manifolds("precision"),
    "recall": _manifolds("recall"),
}
