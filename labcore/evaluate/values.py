"""Metrics of drawn images as plain numbers, without intervals: in the features of extractors, and of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from labcore.data.class_names import HasClasses
from labcore.data.datasets import Data
from labcore.data.protocol import Dataset
from labcore.evaluate import fidelity, pixels
from labcore.evaluate.extractors import load_extractor
from labcore.evaluate.pixel_reference import pixel_reference_of
from labcore.evaluate.references import reference_of
from labcore.evaluate.statistics import load_reference


def metric_values(
    drawn: Dataset,
    data: Data,
    names: Sequence[str],
    seed: int,
    device: torch.device | str,
    model: HasClasses | None = None,
) -> dict[str, float]:
    """Return metrics of drawn images by any judges; names such as `fid_classifier` or `power_pixels`.

    data: its train split is the reference. model: labels of the drawn images follow the order of its classes; None: the
    data's. Raises ValueError for unknown names, and as `fidelity`, `pixel_measures` and
    `labcore.data.class_names.matched`.
    """
    found, asked = {}, [(name, *pixels.split_judge(name)) for name in names]
    for judge in dict.fromkeys(judge for _, _, judge in asked):
        metrics = [metric for _, metric, of in asked if of == judge]
        if judge == pixels.NAME:
            record = pixels.pixel_measures(drawn, pixel_reference_of(data, model), metrics, seed=seed, resamples=0)
            found |= {name: float(measure.value) for name, measure in record.measures.items()}
        else:
            found |= extractor_values(drawn, data, metrics, seed, device, judge)
    return {name: found[name] for name in names}


def extractor_values(
    drawn: Dataset,
    data: Data,
    metrics: Sequence[str],
    seed: int,
    device: torch.device | str,
    extractor: str = "efflite0",
    reference: str | Path | None = None,
) -> dict[str, float]:
    """Return metrics of drawn images in the features of one extractor, by name.

    extractor: default the embedded encoder. reference: statistics of `lab stats`; None: those of the data's train split.
    """
    network = load_extractor(extractor).to(device)
    statistics = reference_of(data, network) if reference is None else load_reference(reference)
    record = fidelity.fidelity(drawn, statistics, network, metrics, seed=seed, resamples=0)
    return {name: float(measure.value) for name, measure in record.measures.items()}
