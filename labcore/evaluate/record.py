"""A record of measures: a JSON object whose parts name their data, so that nothing is measured twice or lost.

    likelihood, bayes_accuracy, training_free_accuracy   of the test set: the measure's values, `of`, `made_with`
    fidelity, fidelity_efflite0, fidelity_classifier,    of generated images: measures, images, reference, `of`, `made_with`
    fidelity_pixels

`of` holds hashes of the model's weights and configuration, data with fingerprint, limit, and the seed if one is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labcore import provenance
from labcore.data.protocol import Dataset
from labcore.evaluate import pixels
from labcore.evaluate.fidelity import METRICS, Metric
from labcore.files import sha256_of
from labcore.inverse.sample import Sampler
from labcore.jsonfile import read_json

SIMPLE = {"likelihood": "likelihood", "bayes": "bayes_accuracy", "classify": "training_free_accuracy"}
"""Metric of the test set -> the part that holds it."""


def identity(model: Sampler) -> dict[str, str]:
    """Return the identity of a model: 16 hex digits each of its weights and its configuration."""
    return {"weights": provenance.weights_hash(model), "config": sha256_of(model.config.computation())[:16]}


def of_test_set(model: Mapping[str, str], test: Dataset, seed: int | None) -> dict[str, Any]:
    """Return `of` for a test set, or for some of its images, which have their own fingerprint; seed None if none is used.

    In earlier records `limit` stood for the first images of a test set; None means all images of `fingerprint`.
    """
    return {
        **model,
        "data": f"{test.name}/{test.split}",
        "fingerprint": test.fingerprint(),
        "limit": None,
        "seed": seed,
    }


def of_samples(
    model: Mapping[str, str], images: Mapping[str, Any], reference: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Return the description of generated images in a part: how they were drawn, and the reference; JSON values."""
    data = {name: reference[name] for name in ("data", "fingerprint")}
    drawn = {**images, "model": model["weights"]}
    return json.loads(
        json.dumps({"of": {**model, **data, "seed": seed}, "images": drawn, "reference": dict(reference)})
    )


def with_todays_fingerprint(part: Mapping[str, Any] | None, images: Dataset) -> dict[str, Any] | None:
    """Return a part of a record in which the fingerprint that `images` had in earlier versions is replaced by today's."""
    named = images.named_fingerprint()
    if part is None or named is None:
        return part
    former = [s for s in ("of", "reference") if isinstance(part.get(s), dict) and part[s].get("fingerprint") == named]
    return {**part, **{section: {**part[section], "fingerprint": images.fingerprint()} for section in former}}


def differences(part: Mapping[str, Any], description: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names in which a part differs from a description by `of_samples`."""
    names = []
    for section, values in description.items():
        recorded = part.get(section)
        recorded = recorded if isinstance(recorded, dict) else {}
        names += [name for name, value in values.items() if name not in recorded or recorded[name] != value]
        if section == "images":  # a setting that is left out at its default, as `compiled`
            names += [name for name in recorded if name not in values]
    return list(dict.fromkeys(names))


def to_measure(
    part: Mapping[str, Any] | None, wanted: Sequence[str], suffix: str, stamp: Mapping[str, Any]
) -> list[str]:
    """Return the metrics that have to be computed so that a part of the same images has all requested ones.

    If one is missing and the others were made by other versions, all are computed: a part has one `made_with`.
    """
    measured = {name.removesuffix(suffix) for name in part["measures"]} if part else set()
    missing = [metric for metric in wanted if metric not in measured]
    if missing and part and part.get("made_with") != stamp:
        return [metric for metric in (*METRICS, *pixels.METRICS) if metric in measured or metric in wanted]
    return missing


def load_record(path: Path, model: Mapping[str, str]) -> dict[str, Any]:
    """Read the record at `path`; {} if there is no file. ValueError for a record of another model, or for any other file."""
    if not path.exists():
        return {}
    try:
        record = read_json(path)
        weights = _weights_in(record)
    except (ValueError, TypeError, AttributeError, KeyError):  # no JSON, or JSON of another form
        weights = set()
    if not weights:
        raise ValueError(
            f"{path} is not a record of `lab evaluate` with hashes of weights; give another file (--out), or "
            "remove this one"
        )
    if weights != {model["weights"]}:
        raise ValueError(
            f"{path} is a record of another model (weights {', '.join(sorted(weights))}, and here they are "
            f"{model['weights']}); give another file (--out), or remove this one"
        )
    return record


def _weights_in(record: Any) -> set[str]:
    """Return the hashes of the models in a record's parts. Raises if a part does not have the form of this module."""
    weights = set()
    for name, part in record.items():
        if name in SIMPLE.values() and "of" in part:
            weights.add(part["of"]["weights"])
        elif name.startswith("fidelity"):
            for measure in part["measures"].values():
                Metric(**measure)  # TypeError for other fields
            weights.add(part["images"]["model"])
    return weights
