"""Measures of a flow and its student of one's own pictures, side by side: as many as the number of pictures allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from labcore.data.datasets import Data
from labcore.evaluate import fidelity, pixels
from labcore.evaluate.extractors import suffix_of
from labcore.evaluate.generate import Sampling
from labcore.evaluate.session import EvaluationRequest
from labcore.markdown import table
from labcore.runs.evaluate import evaluate_streamed
from labcore.train.log import print_line

EXTRACTOR = "efflite0"
MEANINGS = {
    f"kid{suffix_of(EXTRACTOR)}": "distance of features from those of training images; 0 is best",
    f"precision{suffix_of(EXTRACTOR)}": "share of samples that resemble some real image; 1 is best",
    f"recall{suffix_of(EXTRACTOR)}": "share of real images that some sample resembles; 1 is best",
    "power_pixels": "fine detail relative to real images; 0 is best, below 0 is blurred, above 0 is noisy",
}
"""Measures, and what each of them says."""


def measures_for(samples: int, images: int) -> list[str]:
    """Return the measures that `samples` drawn images and `images` training images allow. ValueError for too few samples."""
    if samples < fidelity.FEWEST:
        raise ValueError(f"samples was {samples}; give {fidelity.FEWEST} or more")
    few = min(samples, images)
    return [name for name in MEANINGS if name == "power_pixels" or fidelity.enough(name.split("_")[0], EXTRACTOR, few)]


def measure(
    models: Mapping[str, Path],
    data: Data,
    measures: list[str],
    sampling: Sampling,
    out: Path,
    reference: Path | None = None,
    show: Callable[[str], None] = print_line,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {name: {measure: value, low, high, n, floor}} of models that are in their runs' folders.

    out: folder of the records; what a record has is not measured again. reference: statistics of `lab stats`; None: those of
    the training images. Raises as `evaluate_streamed`.
    """
    found = {}
    for name, model in models.items():
        show(f"measuring {name}: {sampling.num:,} images")
        request = EvaluationRequest(measures, sampling, reference, seed=sampling.seed)
        record = evaluate_streamed(model, data, request, out / f"{name}.json", show=_silent)
        parts = [record.get(f"fidelity{suffix_of(judge)}", {}) for judge in (EXTRACTOR, pixels.NAME)]
        known = {key: values for part in parts for key, values in part.get("measures", {}).items()}
        found[name] = {key: known[key] for key in measures}
    return found


def side_by_side(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a Markdown table of the result of `measure`: a row a measure, with 95% intervals and held-out real images."""
    first = next(iter(found.values()))
    rows = [
        [f"`{key}`", *(_value(each[key]) for each in found.values()), _held_out(first[key]), MEANINGS[key]]
        for key in first
    ]
    return table(["measure", *found, "held-out images", "what it says"], rows)


def _silent(line: str) -> None:
    """Take a line of the evaluation; its numbers are in the table."""


def _value(measure: Mapping[str, Any]) -> str:
    return f"{measure['value']:.3g} ({measure['low']:.3g} to {measure['high']:.3g})"


def _held_out(measure: Mapping[str, Any]) -> str:
    return "too few" if measure["floor"] is None else f"{measure['floor']:.3g}"
