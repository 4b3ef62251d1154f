"""One evaluation session: the requested metrics of a model in order, in one record, written to disk after each metric.

Measures that a record already holds (`labcore.evaluate.record`) are reused, and measures that were not requested stay.
Samples and features are stores (`labcore.store`): the same call resumes after a kill, several processes share the work,
and a metric that is requested later reuses the samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from labcore import provenance
from labcore import tf32 as tf32_switch
from labcore.data.class_names import matched
from labcore.data.datasets import Data
from labcore.data.protocol import Dataset
from labcore.evaluate import (
    Accuracy,
    LikelihoodRecord,
    extractors,
    fidelity,
    likelihood,
    pixels,
    record,
    training_free_accuracy,
)
from labcore.evaluate.accuracy import check_limit
from labcore.evaluate.bayes import bayes_accuracy
from labcore.evaluate.extractors import Extractor, load_extractor
from labcore.evaluate.generate import Sampling, generate
from labcore.evaluate.pixel_reference import pixel_reference_of
from labcore.evaluate.references import reference_of
from labcore.evaluate.statistics import (
    Reference,
    describe,
    image_features,
    load_reference,
)
from labcore.files import check_file
from labcore.flows.tarflow import TarFlow
from labcore.inverse.sample import Sampler
from labcore.jsonfile import alone, write_json
from labcore.latents import pixel_shape, seen_by, square_pixels
from labcore.processes import process_share
from labcore.progress import Progress
from labcore.spread import spread
from labcore.types import NULL

METRICS = (*record.SIMPLE, *fidelity.NAMES, *pixels.NAMES)


class EvaluationRequest(NamedTuple):
    """Requested measures of one session.

    Attributes:
        metrics: names out of `METRICS`.
        sampling: how images are drawn; None: no images.
        reference: a file of `lab stats`; None: statistics of the train split.
        limit: number of test images, evenly spread; None: all.
        seed: 0..2**32-1.
        tf32: use TensorFloat-32 for float32 products and convolutions on a GPU; `made_with` records it.
        about: further entries of the record.
    """

    metrics: Sequence[str] = ("likelihood",)
    sampling: Sampling | None = None
    reference: str | Path | None = None
    limit: int | None = None
    seed: int = 0
    tf32: bool = False
    about: Mapping[str, Any] = MappingProxyType({})


class MetricRequests(NamedTuple):
    """Requested metrics, sorted: those of one test set, and per extractor (or "pixels") those of generated images."""

    simple: list[str]
    by_extractor: dict[str, list[str]]


def metric_requests(metrics: Sequence[str], flow: Sampler, sampling: Sampling | None) -> MetricRequests:
    """Sort the metrics, and reject early what would fail later: unknown names, too few samples, no classes or likelihood."""
    simple, by_extractor = [], {}
    for name in dict.fromkeys(metrics):
        if name not in METRICS:
            raise ValueError(f"metric {name!r} is unknown; the names are {', '.join(METRICS)}")
        if name in record.SIMPLE:
            simple.append(name)
        else:
            metric, extractor = pixels.split_judge(name)
            by_extractor.setdefault(extractor, []).append(metric)
    if not simple and not by_extractor:
        raise ValueError(f"no metrics were given; the names are {', '.join(METRICS)}")
    if simple and not isinstance(flow, TarFlow):
        raise ValueError(
            f"{', '.join(simple)}: a learned inverse has no likelihood and cannot classify; ask for metrics of its "
            f"images, as --metrics {','.join(fidelity.METRICS)}, or measure the flow"
        )
    if flow.config.num_classes == 0 and (asked := {"bayes", "classify"} & set(simple)):
        raise ValueError(f"{', '.join(sorted(asked))}: this flow is unconditional and cannot classify; leave it out")
    if by_extractor and sampling is None:
        raise ValueError("metrics of generated images need --num-samples: 50000 in papers, 2000 for a first look")
    for extractor, wanted in by_extractor.items():
        if extractor == pixels.NAME:
            labels = sampling.labels(flow, range(sampling.num))
            pixels.check_pixels(wanted, torch.full((sampling.num,), NULL) if labels is None else labels)
            continue
        extractors.check_channels(extractor, pixel_shape(flow.config)[0])
        fidelity.check_enough(wanted, extractor, sampling.num, "generated")
    return MetricRequests(simple, by_extractor)


def evaluate_model(
    flow: Sampler,
    data: Data,
    request: EvaluationRequest,
    out: Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str, Any], None] = lambda name, value: None,
) -> dict[str, Any]:
    """Evaluate a flow or a learned inverse and return the record; `out` has it as JSON after each part.

    data: test split for likelihood and classification; train split for reference statistics, unless the request names a
    file (metrics of pixels always use the train split). A record of the same weights at `out` is extended. `say(name,
    value)` is called with each result. Raises ValueError, OSError and FileNotFoundError before anything is drawn.
    """
    sampling, about = request.sampling, dict(request.about)
    todo = metric_requests(request.metrics, flow, sampling)
    check_limit(request.limit)
    fidelity.check_seed(request.seed)
    known = check_out(out, flow) if out is not None else {}
    book = _RecordFile({**known, **about}, out, record.identity(flow), request.seed, say, about)
    prepared = [_prepare(name, wanted, flow, data, request.reference) for name, wanted in todo.by_extractor.items()]
    comparisons = [_comparison(book, flow, data, sampling, *each) for each in prepared]
    with tf32_switch.use(request.tf32):
        if todo.simple:
            test = matched(flow.config, spread(data.split("test"), request.limit))
            test = seen_by(
                flow.config, test, flow.device, progress=progress
            )  # by all processes, which share its latents
            for name in todo.simple if process_share()[0] == 0 else ():
                _evaluate_test_set(book, name, flow, test, progress)
        for comparison in comparisons:
            _compare(book, comparison, flow, data, sampling, progress)
    return book.record


def check_out(out: Path, flow: Sampler) -> dict[str, Any]:
    """Return the record at `out`, {} if there is none. ValueError or OSError if a record of `flow` cannot be written there."""
    check_file(out)
    return record.load_record(out, record.identity(flow))


class _RecordFile(NamedTuple):
    """A growing record, and the entries that all its parts share."""

    record: dict[str, Any]
    out: Path | None
    model: dict[str, str]
    seed: int
    say: Callable[[str, Any], None]
    own: dict[str, Any]
    """Parts of this evaluation; another one may add its own to the same file meanwhile."""

    def keep(self, name: str, part: dict[str, Any]) -> None:
        self.own[name] = self.record[name] = part
        if self.out is None:
            return
        with alone(self.out):
            try:
                on_disk = record.load_record(self.out, self.model)
            except ValueError as error:  # it came, or was damaged, while this was measured
                rescue_file = self.out.with_name(f"{self.out.stem}-{self.model['weights']}.json")
                write_json(rescue_file, self.record)
                warnings.warn(f"{error}. What was measured is in {rescue_file}", stacklevel=2)
                return
            self.record.update({**on_disk, **self.own})
            write_json(self.out, self.record)

    def say_known(self, name: str, value: Any) -> None:
        self.say(name, f"{value}; was in {self.out}")


def _evaluate_test_set(book: _RecordFile, name: str, flow: TarFlow, test: Dataset, progress: Progress | None) -> None:
    """Report one of `record.SIMPLE`: from the record if it was measured on the same data, else measure and keep it."""
    measure, kind, seeded = _SIMPLE[name]
    part, of = record.SIMPLE[name], record.of_test_set(book.model, test, book.seed if seeded else None)
    known = record.with_todays_fingerprint(book.record.get(part, {}), test)
    if known.get("of") == of and set(kind._fields) <= set(known):
        return book.say_known(name, kind(*(known[field] for field in kind._fields)))
    result = measure(flow, test, book.seed, progress)
    book.say(name, result)
    values = result._asdict()
    values |= {"of": of, "classes": list(test.classes), "made_with": values.get("made_with", provenance.stamp())}
    book.keep(part, values)


class _Comparison(NamedTuple):
    """Generated images and a reference: `description` is that of the part, `recorded` the part if it exists."""

    extractor: Extractor | pixels.Pixels
    wanted: list[str]
    reference: Reference | None
    description: dict[str, Any]
    recorded: dict[str, Any] | None

    @property
    def part(self) -> str:
        return f"fidelity{self.extractor.suffix}"


def _comparison(
    book: _RecordFile,
    flow: Sampler,
    data: Data,
    sampling: Sampling,
    extractor: Extractor | pixels.Pixels,
    wanted: list[str],
    reference: Reference | None,
) -> _Comparison:
    """Raise ValueError if the record's part is of other images, and would lose measures that were not requested."""
    recorded = book.record.get(f"fidelity{extractor.suffix}")
    if reference is None:
        train = data.split("train")
        if isinstance(extractor, pixels.Pixels):  # its reference is numbered as the model's classes
            train = matched(flow.config, train)
        about, recorded = describe(train, extractor), record.with_todays_fingerprint(recorded, train)
    else:
        about = fidelity.described(reference)
    description = record.of_samples(book.model, sampling.describe(flow), about, book.seed)
    comparison = _Comparison(extractor, wanted, reference, description, recorded)
    if comparison.recorded is None:
        return comparison
    other = record.differences(comparison.recorded, description)
    if not other:
        return comparison
    lost = set(comparison.recorded["measures"]) - {f"{metric}{extractor.suffix}" for metric in wanted}
    if lost:
        raise ValueError(
            f"{book.out} has {', '.join(sorted(lost))} measured with another {', '.join(other)}; give another --out, remove "
            "the file, or ask for these metrics too and have them replaced"
        )
    return comparison._replace(recorded=None)


def _compare(
    book: _RecordFile, comparison: _Comparison, flow: Sampler, data: Data, sampling: Sampling, progress: Progress | None
) -> None:
    """Report metrics of generated images: from the record if they were measured on the same images, else measure them."""
    extractor, wanted, reference, description, recorded = comparison
    stamp = {"seed": book.seed, **provenance.stamp("timm", "torch-fidelity")}
    missing = record.to_measure(recorded, wanted, extractor.suffix, stamp)
    measures = {name: fidelity.Metric(**values) for name, values in recorded["measures"].items()} if recorded else {}
    for metric in wanted:
        if metric not in missing and process_share()[0] == 0:
            book.say_known(name := f"{metric}{extractor.suffix}", measures[name])
    if not missing:
        return
    images = generate(flow, sampling, progress=progress)
    result = _result(images, extractor, missing, reference, flow, data, book.seed, progress)
    if result is None:
        return
    for name, measure in result.measures.items():
        book.say(name, measure)
    both = {**measures, **result.measures}
    book.keep(comparison.part, {**replace(result, measures=both).as_dict(), "of": description["of"]})


def _result(
    images: Dataset,
    extractor: Extractor | pixels.Pixels,
    metrics: list[str],
    reference: Reference | None,
    flow: Sampler,
    data: Data,
    seed: int,
    progress: Progress | None,
) -> fidelity.FidelityRecord | None:
    """Compute the metrics of drawn images; None in all processes but the first, which only share the features."""
    if isinstance(extractor, pixels.Pixels):
        if process_share()[0] != 0:
            return None
        return pixels.pixel_measures(images, pixel_reference_of(data, flow.config), metrics, seed=seed)
    image_features(images, extractor, progress=progress)
    statistics = reference or reference_of(data, extractor, progress=progress)
    if process_share()[0] != 0:
        return None
    return fidelity.fidelity(images, statistics, extractor, metrics, seed=seed, progress=progress)


def _prepare(
    name: str, metrics: list[str], flow: Sampler, data: Data, reference: str | Path | None
) -> tuple[Extractor | pixels.Pixels, list[str], Reference | None]:
    """Load the extractor, its metrics, and the statistics of a given file, and check them against flow and metrics."""
    if name == pixels.NAME:
        return pixels.Pixels(), metrics, None
    extractor = load_extractor(name).to(flow.device)
    if reference is None:
        fidelity.check_enough(metrics, name, len(data.split("train")), "reference")
        return extractor, metrics, None
    found = load_reference(reference)
    found.check(extractor, **square_pixels(flow.config))
    fidelity.check_enough(metrics, name, found.about["n"], "reference")
    return extractor, metrics, found


_SIMPLE: dict[str, tuple[Callable[..., Any], type, bool]] = {
    "likelihood": (
        lambda flow, test, seed, progress: likelihood(flow, test, seed=seed, progress=progress),
        LikelihoodRecord,
        True,
    ),
    "bayes": (lambda flow, test, _, progress: bayes_accuracy(flow, test, progress=progress), Accuracy, False),
    "classify": (
        lambda flow, test, _, progress: training_free_accuracy(flow, test, progress=progress),
        Accuracy,
        False,
    ),
}
"""Metric of the test set -> (how it is measured, what that returns, whether the seed takes part)."""
