"""Linear probes: how well a linear classifier predicts the classes from the hidden features of each (block, layer).

FlowBack (arXiv 2511.22345), figure 4, plots one accuracy per site and does not give the protocol. This protocol is that
of the same first author's later repository: z-score with the statistics of the training set, BatchNorm1d and Linear, SGD
with momentum 0.9, lr 0.1, weight decay 1e-4, 90 epochs of batches of 2048 (there: on each of 8 processes), cosine to 0.
Our own choices: batch norm with torch's defaults, the initialisation of torch's Linear, the cosine by step, weight decay
on all parameters, and leaving out the last, smaller batch of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from labcore import provenance
from labcore.config import Config
from labcore.data.protocol import Dataset
from labcore.evaluate.accuracy import Accuracy, wilson
from labcore.evaluate.hiddens import hidden_features, sites_of
from labcore.flows.tarflow import TarFlow
from labcore.progress import Progress
from labcore.rng import generator
from labcore.sites import Site


class ProbeConfig(Config):
    """Settings of a probe's training; the defaults are the protocol above."""

    epochs: PositiveInt = 90
    batch_size: int = Field(default=2048, ge=2)  # images; a smaller training set is one batch
    lr: PositiveFloat = 0.1  # at the first step; a cosine takes it to 0
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 1e-4


class ProbeResult(NamedTuple):
    """accuracy: on the test set after the last epoch. best: the highest test accuracy after any epoch.

    The published protocol reports the best. It is optimistic, because the epoch is chosen on the test set.
    """

    accuracy: Accuracy
    best: float


class SiteProbe(NamedTuple):
    """The `ProbeResult` of one site; block and layer are counted from 1."""

    block: int
    layer: int
    accuracy: Accuracy
    best: float


class ProbeReport(NamedTuple):
    """Results of probes, as JSON values.

    Attributes:
        sites: one result per site, in the requested order.
        data: training and test set.
        protocol: the values of the `ProbeConfig`.
        made_with: seed, numbers of images, weights, code and device.
    """

    sites: tuple[SiteProbe, ...]
    data: dict[str, str]
    protocol: dict[str, Any]
    made_with: dict[str, Any]

    @property
    def top(self) -> SiteProbe:
        """Site with the highest accuracy after the last epoch. It is chosen on the test set, so its accuracy is optimistic."""
        return max(self.sites, key=lambda site: site.accuracy.accuracy)

    def record(self) -> dict[str, Any]:
        """Return the report as nested dictionaries and lists."""
        sites = [{**site._asdict(), "accuracy": site.accuracy._asdict()} for site in self.sites]
        return {**self._asdict(), "sites": sites}


def linear_probe(
    train_features: Float[Tensor, "n width"],
    train_labels: Int[Tensor, " n"],
    test_features: Float[Tensor, "m width"],
    test_labels: Int[Tensor, " m"],
    num_classes: int,
    config: ProbeConfig | None = None,
    seed: int = 0,
) -> ProbeResult:
    """Train a linear classifier on the training features, and return its accuracy on the test features.

    Runs on the device of train_features, in their dtype. Initial weights and the order of batches depend only on the
    seed; the global generator is not used. A feature that is constant on the training set is left out. Raises ValueError
    for sets of fewer than 2 images, shapes that do not fit, features of width 0, labels that are not int64 or outside
    0..num_classes-1, training labels of one class only, features that are not finite, and a probe that diverges.
    """
    _check(train_features, train_labels, test_features, test_labels, num_classes)
    config = config or ProbeConfig()
    device, dtype, (n, width) = train_features.device, train_features.dtype, train_features.shape
    test_labels, train_labels = test_labels.to(device), train_labels.to(device)
    train, test = _z_scored(train_features.detach(), test_features.detach().to(device, dtype))
    with torch.inference_mode(False), torch.enable_grad():
        probe = _probe(width, num_classes, generator(seed, "probe", "weights")).to(device, dtype)
        train, train_labels = train.clone(), train_labels.clone()  # out of inference mode, so that they take part in it
        optimizer = torch.optim.SGD(
            probe.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        batch = min(config.batch_size, n)
        steps, right = config.epochs * (n // batch), []
        for epoch in range(config.epochs):
            order = torch.randperm(n, generator=generator(seed, "probe", "order", epoch)).to(device)
            probe.train()
            for i in range(n // batch):
                step = epoch * (n // batch) + i
                optimizer.param_groups[0]["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
                rows = order[i * batch : (i + 1) * batch]
                optimizer.zero_grad()
                F.cross_entropy(probe(train[rows]), train_labels[rows]).backward()
                optimizer.step()
            right.append(_hits(probe, test, test_labels, config.batch_size))
    if not all(bool(p.isfinite().all()) for p in probe.parameters()):
        raise ValueError(f"the probe diverged with lr {config.lr:g}; give a smaller one")
    return ProbeResult(wilson(right[-1], len(test)), max(right) / len(test))


def probe_sites(
    flow: TarFlow,
    train: Dataset,
    test: Dataset,
    sites: Iterable[Site] | None = None,
    config: ProbeConfig | None = None,
    seed: int = 0,
    root: Path | None = None,
    progress: Progress | None = None,
) -> ProbeReport:
    """Train a linear probe at each site, on the features of `labcore.evaluate.hidden_features` and the flow's device.

    Args:
        flow: the flow; its classes are not used.
        train: training set of `labcore.data`; `labcore.spread.spread` makes a smaller one.
        test: test set with the same classes.
        sites: (block, layer) pairs, both counted from 1; None (default): all sites.
        config: settings of the probes; default the published protocol.
        seed: random seed of weights and batches.
        root: folder of stored features, as in `hidden_features`.
        progress: called while features are computed; default None.

    Raises:
        ValueError: as `linear_probe`; or the sets have different classes.
    """
    if train.num_classes != test.num_classes:
        raise ValueError(
            f"the training set has {train.num_classes} classes and the test set {test.num_classes}; give two splits of "
            "one data set"
        )
    sites = sites_of(flow, sites)
    config = config or ProbeConfig()
    train_features = hidden_features(flow, train, sites, root, progress=progress)
    test_features = hidden_features(flow, test, sites, root, progress=progress)
    results = []
    for number, site in enumerate(sites):
        if progress is not None:
            progress("probes", number, len(sites))
        own, held_out = train_features[site], test_features[site]
        both = own.to(flow.device), train.labels, held_out.to(flow.device), test.labels
        result = linear_probe(*both, train.num_classes, config, seed)
        results.append(SiteProbe(*site, *result))
    if progress is not None:
        progress("probes", len(sites), len(sites))
    return ProbeReport(
        sites=tuple(results),
        data={"train": f"{train.name}/{train.split}", "test": f"{test.name}/{test.split}"},
        protocol=config.model_dump(mode="json"),
        made_with={
            "seed": seed,
            "train_images": len(own),
            "test_images": len(held_out),
            "weights": provenance.weights_hash(flow),
            **provenance.stamp(),
        },
    )


def _probe(width: int, num_classes: int, g: torch.Generator) -> nn.Sequential:
    """Build BatchNorm1d and Linear; the weights of the latter are drawn from `g` as torch draws them."""
    linear = nn.utils.skip_init(nn.Linear, width, num_classes)
    with torch.no_grad():
        for p in (linear.weight, linear.bias):
            p.uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width), generator=g)
    return nn.Sequential(nn.BatchNorm1d(width), linear)


def _z_scored(
    train: Float[Tensor, "n width"], test: Float[Tensor, "m width"]
) -> tuple[Float[Tensor, "n width"], Float[Tensor, "m width"]]:
    """Normalise both with mean and standard deviation of `train`; a feature that is constant there becomes 0."""
    std, mean = torch.std_mean(train, dim=0)
    varies = std > 8 * torch.finfo(train.dtype).eps * mean.abs()
    scale = torch.where(varies, 1 / std, 0)
    return (train - mean) * scale, (test - mean) * scale


@torch.no_grad()
def _hits(probe: nn.Module, features: Tensor, labels: Tensor, batch: int) -> int:
    """Count the images that are classified correctly, in eval mode."""
    probe.eval()
    pairs = zip(features.split(batch), labels.split(batch), strict=True)
    return int(sum((probe(x).argmax(dim=1) == y).sum() for x, y in pairs))


def _check(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, num_classes: int) -> None:
    _check_set("training", train, train_labels, num_classes)
    _check_set("test", test, test_labels, num_classes)
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"training features are {train.shape[1]} wide and test features {test.shape[1]}; take both from one site"
        )
    if int(train_labels.min()) == int(train_labels.max()):
        raise ValueError(
            f"all {len(train)} training labels are {int(train_labels[0])}; give images of two classes or more"
        )


def _check_set(name: str, x: Tensor, y: Tensor, num_classes: int) -> None:
    """Raise ValueError unless features and labels of one set fit each other and the number of classes."""
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"{name} features are {x.dtype} of shape {tuple(x.shape)}; give floating (images, width)")
    if x.shape[1] == 0:
        raise ValueError(f"the {name} features have width 0; give features of width 1 or more")
    if y.shape != (len(x),):
        raise ValueError(f"{len(x)} {name} features have labels of shape {tuple(y.shape)}; give one label for each")
    if y.dtype != torch.int64:
        raise ValueError(f"{name} labels are {y.dtype}; give int64 class numbers, as labels.long() makes of integers")
    if len(x) < 2:
        raise ValueError(f"the {name} set has {len(x)} images; a probe needs at least 2")
    if not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).any(dim=1).sum())
        raise ValueError(
            f"the {name} features of {bad} of {len(x)} images hold NaN or infinity: the flow diverged, or the images "
            "are not in [-1, 1]; leave these images out, or give another checkpoint"
        )
    if not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise ValueError(
            f"{name} labels run from {int(y.min())} to {int(y.max())}; {num_classes} classes allow 0 to "
            f"{num_classes - 1}. Renumber the labels, or give the right num_classes"
        )
