"""Measuring a model: any of the metrics, in the order asked for, into one record that is on disk after each of them.

Samples and features are stores (`labcore.store`): the same call again goes on where a killed one was, several processes
share the work, and a metric asked for later draws nothing again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labcore.data import load
from labcore.evaluate import fidelity, likelihood, training_free_accuracy
from labcore.evaluate.bayes import bayes_accuracy
from labcore.evaluate.extractors import Extractor, load_extractor
from labcore.evaluate.generate import Sampling, generate
from labcore.evaluate.statistics import (
    Reference,
    file_name,
    image_features,
    load_reference,
    make_reference,
    save_reference,
)
from labcore.flows.tarflow import TarFlow
from labcore.store import Progress, cache_folder, process_share

SIMPLE = ("likelihood", "bayes", "classify")
METRICS = (*SIMPLE, *fidelity.NAMES)


class Plan(NamedTuple):
    """What is to be measured: metrics of one test set, and per extractor those of generated images."""

    simple: list[str]
    by_extractor: dict[str, list[str]]


def plan(metrics: Sequence[str], flow: TarFlow, num_samples: int | None) -> Plan:
    """Sort the metrics, and refuse now what would fail after hours: unknown names, too few samples, no classes."""
    simple, by_extractor = [], {}
    for name in dict.fromkeys(metrics):
        if name not in METRICS:
            raise ValueError(f"metric {name!r} is unknown; the names are {', '.join(METRICS)}")
        if name in SIMPLE:
            simple.append(name)
        else:
            metric, extractor = fidelity.split_name(name)
            by_extractor.setdefault(extractor, []).append(metric)
    if not simple and not by_extractor:
        raise ValueError(f"no metrics were given; the names are {', '.join(METRICS)}")
    if flow.config.num_classes == 0 and (asked := {"bayes", "classify"} & set(simple)):
        raise ValueError(f"{', '.join(sorted(asked))}: this flow is unconditional and cannot classify; leave it out")
    if by_extractor and num_samples is None:
        raise ValueError("metrics of generated images need --num-samples: 50000 in papers, 2000 for a first look")
    for extractor, wanted in by_extractor.items():
        fidelity.check_enough(wanted, extractor, num_samples, "generated")
    return Plan(simple, by_extractor)


class Data(NamedTuple):
    """Where images come from: the arguments of `labcore.data.load` but the split."""

    name: str
    path: str | None = None
    image_size: int | None = None
    channels: int | None = None

    def split(self, split: str) -> Any:
        return load(self.name, split, self.path, self.image_size, self.channels)


def evaluate_model(
    flow: TarFlow,
    data: Data,
    metrics: Sequence[str] = ("likelihood",),
    sampling: Sampling | None = None,
    reference: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    about: dict[str, Any] | None = None,
    progress: Progress | None = None,
    say: Callable[[str, Any], None] = lambda name, value: None,
) -> dict[str, Any]:
    """Measure `flow` and return the record; `out` has it as JSON after each part. `say(name, value)` hears each result.

    data: test split for likelihood and classification; train split for reference statistics, unless `reference` is a file
    of `lab stats`. limit: first images of the test split. Raises ValueError and FileNotFoundError before anything is drawn.
    """
    todo = plan(metrics, flow, sampling and sampling.num)
    prepared = {name: _prepare(name, wanted, flow, data, reference) for name, wanted in todo.by_extractor.items()}
    first = process_share()[0] == 0
    record = {**(about or {})}

    def keep(name: str, values: dict[str, Any]) -> None:
        record[name] = values
        if out is not None:
            write_json(out, record)

    if first and todo.simple:
        test = data.split("test")
        check_classes(flow, test)
        for name in todo.simple:
            result = _SIMPLE[name](flow, test, limit, seed)
            say(name, result)
            keep({"bayes": "bayes_accuracy", "classify": "training_free_accuracy"}.get(name, name), result._asdict())
    for name, wanted in todo.by_extractor.items():
        extractor, known = prepared[name]
        images = generate(flow, sampling, progress=progress)
        image_features(images, extractor, progress=progress)
        statistics = known or reference_of(data, extractor, progress=progress)
        if first:
            result = fidelity.fidelity(images, statistics, extractor, wanted, seed=seed, progress=progress)
            for measure, value in result.measures.items():
                say(measure, value)
            keep(f"fidelity{extractor.suffix}", result.as_dict())
    return record


def _prepare(
    name: str, metrics: list[str], flow: TarFlow, data: Data, reference: str | Path | None
) -> tuple[Extractor, Reference | None]:
    """The extractor, and the statistics where a file was given, checked against flow and metrics."""
    extractor = load_extractor(name).to(flow.device)
    if reference is None:
        fidelity.check_enough(metrics, name, len(data.split("train")), "reference")
        return extractor, None
    found = load_reference(reference)
    found.check(extractor, flow.config.image_size, flow.config.channels)
    fidelity.check_enough(metrics, name, found.about["n"], "reference")
    return extractor, found


def reference_of(
    data: Data, extractor: Extractor, path: Path | None = None, progress: Progress | None = None
) -> Reference:
    """Statistics of the train split, with the floor from the test split; read from `path` or the cache where they are.

    Several processes share the features; the first one writes the file.
    """
    train = data.split("train")
    path = path or cache_folder() / "statistics" / file_name(train, extractor)
    if path.is_file():
        found = load_reference(path)
        found.check(extractor, train.image_size, train.channels)
        if found.about["fingerprint"] != train.fingerprint():
            raise ValueError(f"{path} holds statistics of other images ({found.about['data']}); give another file")
        return found
    image_features(train, extractor, progress=progress)
    test = _test_split(data)
    if test is not None:
        image_features(test, extractor, progress=progress)
    reference = make_reference(train, extractor)
    if test is not None:
        reference = fidelity.with_floor(reference, test, extractor, progress)
    if process_share()[0] == 0:
        save_reference(reference, path)
    return reference


def _test_split(data: Data) -> Any | None:
    try:
        return data.split("test")
    except ValueError:
        return None  # a folder with no test images: statistics without a floor


def check_classes(flow: TarFlow, test: Any) -> None:
    """ValueError where data and flow have different numbers of classes."""
    if flow.config.num_classes not in (0, test.num_classes):
        raise ValueError(
            f"{test.name} has {test.num_classes} classes and the model {flow.config.num_classes}; give the data it was "
            "trained on"
        )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """A JSON file that is replaced at once."""
    new = path.with_name(f".{path.name}.tmp")
    new.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(new, path)


_SIMPLE = {
    "likelihood": lambda flow, test, limit, seed: likelihood(flow, test, limit=limit, seed=seed),
    "bayes": lambda flow, test, limit, seed: bayes_accuracy(flow, test, limit),
    "classify": lambda flow, test, limit, seed: training_free_accuracy(flow, test, limit),
}
