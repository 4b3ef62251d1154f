"""Measures of drawn images by any judges at once: in the features of extractors, and of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labcore.data.class_names import HasClasses
from labcore.data.datasets import Data
from labcore.evaluate import pixels
from labcore.runs.evaluation import scores
from labcore.runs.pixel_reference import pixel_reference_of

if TYPE_CHECKING:
    import torch


def scores_by_name(
    drawn: Any,
    data: Data,
    names: Sequence[str],
    seed: int,
    device: torch.device | str,
    model: HasClasses | None = None,
) -> dict[str, float]:
    """Measures of drawn images without intervals, by any judges: names as `fid_classifier` or `power_pixels`.

    data: its train split is compared with. model: labels of the drawn images are in the order of its classes; None: in the
    data's. Raises ValueError for unknown names, and as `fidelity`, `pixel_measures` and `labcore.data.class_names.matched`.
    """
    found, asked = {}, [(name, *pixels.split_judge(name)) for name in names]
    for judge in dict.fromkeys(judge for _, _, judge in asked):
        metrics = [metric for _, metric, of in asked if of == judge]
        if judge == pixels.NAME:
            record = pixels.pixel_measures(drawn, pixel_reference_of(data, model), metrics, seed=seed, resamples=0)
            found |= {name: float(measure.value) for name, measure in record.measures.items()}
        else:
            found |= scores(drawn, data, metrics, seed, device, judge)
    return {name: found[name] for name in names}
