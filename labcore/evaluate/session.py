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
from labcore.evaluate.accuracy import guessing
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
from labcore.processes import is_first_process
from labcore.progress import Progress
from labcore.spread import check_limit, spread
from labcore.types import NULL

METRICS = (*record.SIMPLE, *fidelity.NAMES, *pixels.NAMES)
CLASSIFYING = {"bayes", "classify"}
"""The metrics that are accuracies of a flow as a classifier."""


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
            f"{', '.join(simple)}: a student has no likelihood and cannot classify; ask for metrics of its "
            f"images, as --metrics {','.join(fidelity.METRICS)}, or measure the flow"
        )
    if flow.config.num_classes == 0 and (asked := CLASSIFYING & set(simple)):
        raise ValueError(f"{', '.join(sorted(asked))}: this flow is unconditional and cannot classify; leave it out")
    if by_extractor and sampling is None:
        raise ValueError("metrics of generated images need --num-samples: 50000 in papers, 2000 for a first look")
    for extractor, wanted in by_extractor.items():
        if extractor == pixels.NAME:
            if sampling.classes == "data" and sampling.class_counts is None:
                pixels.check_number(wanted[0], sampling.num)  # `evaluate_model` checks the classes when it has the data
                continue
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
    """Evaluate a flow or a student and return the record; `out` has it as JSON after each part.

    data: test split for likelihood and classification; train split for reference statistics, unless the request names a
    file (metrics of pixels always use the train split). A record of the same weights at `out` is extended. `say(name,
    value)` is called with each result, and after accuracies with the accuracy of guessing. Raises ValueError, OSError and
    FileNotFoundError before anything is drawn.
    """
    sampling, about = request.sampling, dict(request.about)
    if sampling is not None and sampling.classes == "data":
        sampling = sampling.as_in(flow.config, data.split("train"))
    todo = metric_requests(request.metrics, flow, sampling)
    check_limit(request.limit)
    fidelity.check_seed(request.seed)
    known = check_out(out, flow) if out is not None else {}
    book = _RecordFile({**known, **about}, out, record.identity(flow), request.seed, say, about)
    judges = [_judge(name, wanted, flow, data, request.reference) for name, wanted in todo.by_extractor.items()]
    comparisons = [_comparison(book, judge, flow, data, sampling) for judge in judges]
    with tf32_switch.use(request.tf32):
        if todo.simple:
            test = matched(flow.config, spread(data.split("test"), request.limit))
            test = seen_by(flow.config, test, flow.device, progress=progress)  # all processes share its latents
            for name in todo.simple if is_first_process() else ():
                _evaluate_test_set(book, name, flow, test, progress)
            if is_first_process() and CLASSIFYING & set(todo.simple):
                say("guessing", guessing(test))
        for comparison in comparisons:
            _evaluate_samples(book, comparison, flow, data, sampling, progress)
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
    """Parts that this evaluation measured; another evaluation may add parts to the same file at the same time."""

    def keep(self, name: str, part: dict[str, Any]) -> None:
        self.own[name] = self.record[name] = part
        if self.out is None:
            return
        with alone(self.out):
            try:
                on_disk = record.load_record(self.out, self.model)
            except ValueError as error:  # the file appeared, or was damaged, during the measurement
                rescue_file = self.out.with_name(f"{self.out.stem}-{self.model['weights']}.json")
                write_json(rescue_file, self.record)
                warnings.warn(f"{error}. The measurements are in {rescue_file}", stacklevel=2)
                return
            self.record.update({**on_disk, **self.own})
            write_json(self.out, self.record)

    def say_known(self, name: str, value: Any) -> None:
        self.say(name, f"{value}; was in {self.out}")


def _evaluate_test_set(book: _RecordFile, name: str, flow: TarFlow, test: Dataset, progress: Progress | None) -> None:
    """Report one of `record.SIMPLE`: from the record if it was measured on the same data, else measure and keep it."""
    metric, part = _SIMPLE[name], record.SIMPLE[name]
    of = record.of_test_set(book.model, test, book.seed if metric.seeded else None)
    known = record.with_todays_fingerprint(book.record.get(part, {}), test)
    fields = metric.result._fields
    if known.get("of") == of and set(fields) <= set(known):
        return book.say_known(name, metric.result(*(known[field] for field in fields)))
    result = metric.measure(flow, test, book.seed, progress)
    book.say(name, result)
    values = result._asdict()
    values |= {"of": of, "classes": list(test.classes), "made_with": values.get("made_with", provenance.stamp())}
    book.keep(part, values)


class _Judge(NamedTuple):
    """An extractor, or the pixels themselves, and the metrics that are wanted of it.

    reference: the statistics of a given file; None for those of the train split.
    """

    extractor: Extractor | pixels.Pixels
    wanted: list[str]
    reference: Reference | None

    @property
    def part(self) -> str:
        """Name of its part of the record."""
        return f"fidelity{self.extractor.suffix}"

    def name(self, metric: str) -> str:
        """Name of one of its metrics in the record."""
        return f"{metric}{self.extractor.suffix}"


def _judge(name: str, metrics: list[str], flow: Sampler, data: Data, reference: str | Path | None) -> _Judge:
    """Load an extractor and the statistics of a given file, and check them against flow and metrics."""
    if name == pixels.NAME:
        return _Judge(pixels.Pixels(), metrics, None)
    extractor = load_extractor(name).to(flow.device)
    if reference is None:
        fidelity.check_enough(metrics, name, len(data.split("train")), "reference")
        return _Judge(extractor, metrics, None)
    found = load_reference(reference)
    found.check(extractor, **square_pixels(flow.config))
    fidelity.check_enough(metrics, name, found.about["n"], "reference")
    return _Judge(extractor, metrics, found)


class _Comparison(NamedTuple):
    """Inputs of a judge's comparison. description: that of its part of the record. recorded: the part if it can be used."""

    judge: _Judge
    description: dict[str, Any]
    recorded: dict[str, Any] | None


def _comparison(book: _RecordFile, judge: _Judge, flow: Sampler, data: Data, sampling: Sampling) -> _Comparison:
    """Raise ValueError if the record's part is of other images, and would lose measures that were not requested."""
    recorded = book.record.get(judge.part)
    if judge.reference is None:
        train = data.split("train")
        if isinstance(judge.extractor, pixels.Pixels):  # its reference is numbered as the model's classes
            train = matched(flow.config, train)
        about, recorded = describe(train, judge.extractor), record.with_todays_fingerprint(recorded, train)
    else:
        about = fidelity.described(judge.reference)
    description = record.of_samples(book.model, sampling.describe(flow), about, book.seed)
    other = [] if recorded is None else record.differences(recorded, description)
    if not other:
        return _Comparison(judge, description, recorded)
    lost = set(recorded["measures"]) - {judge.name(metric) for metric in judge.wanted}
    if lost:
        raise ValueError(
            f"{book.out} has {', '.join(sorted(lost))} measured with another {', '.join(other)}; give another --out, remove "
            "the file, or ask for these metrics too and have them replaced"
        )
    return _Comparison(judge, description, None)


def _evaluate_samples(
    book: _RecordFile, comparison: _Comparison, flow: Sampler, data: Data, sampling: Sampling, progress: Progress | None
) -> None:
    """Report metrics of generated images: from the record if they were measured on the same images, else measure them."""
    judge, description, recorded = comparison
    stamp = {"seed": book.seed, **provenance.stamp("timm", "torch-fidelity")}
    missing = record.to_measure(recorded, judge.wanted, judge.extractor.suffix, stamp)
    known = {} if recorded is None else recorded["measures"]
    measures = {name: fidelity.Metric(**values) for name, values in known.items()}
    for name in (judge.name(metric) for metric in judge.wanted if metric not in missing):
        if is_first_process():
            book.say_known(name, measures[name])
    if not missing:
        return
    images = generate(flow, sampling, progress=progress)
    result = _measured(images, judge._replace(wanted=missing), flow, data, book.seed, progress)
    if result is None:
        return
    for name, measure in result.measures.items():
        book.say(name, measure)
    both = {**measures, **result.measures}
    book.keep(judge.part, {**replace(result, measures=both).as_dict(), "of": description["of"]})


def _measured(
    images: Dataset, judge: _Judge, flow: Sampler, data: Data, seed: int, progress: Progress | None
) -> fidelity.FidelityRecord | None:
    """Compute the metrics of drawn images; None in all processes but the first, which only share the features."""
    extractor, wanted, reference = judge
    if isinstance(extractor, pixels.Pixels):
        if not is_first_process():
            return None
        return pixels.pixel_measures(images, pixel_reference_of(data, flow.config), wanted, seed=seed)
    image_features(images, extractor, progress=progress)
    statistics = reference or reference_of(data, extractor, progress=progress)
    if not is_first_process():
        return None
    return fidelity.fidelity(images, statistics, extractor, wanted, seed=seed, progress=progress)


class _TestMetric(NamedTuple):
    """A metric of the test set.

    measure: (flow, test set, seed, progress) -> result. result: the class of that. seeded: whether the seed takes part.
    """

    measure: Callable[[TarFlow, Dataset, int, Progress | None], Any]
    result: type
    seeded: bool


def _likelihood(flow: TarFlow, test: Dataset, seed: int, progress: Progress | None) -> LikelihoodRecord:
    return likelihood(flow, test, seed=seed, progress=progress)


def _bayes(flow: TarFlow, test: Dataset, seed: int, progress: Progress | None) -> Accuracy:
    return bayes_accuracy(flow, test, progress=progress)


def _classify(flow: TarFlow, test: Dataset, seed: int, progress: Progress | None) -> Accuracy:
    return training_free_accuracy(flow, test, progress=progress)


_SIMPLE = {
    "likelihood": _TestMetric(_likelihood, LikelihoodRecord, seeded=True),
    "bayes": _TestMetric(_bayes, Accuracy, seeded=False),
    "classify": _TestMetric(_classify, Accuracy, seeded=False),
}
"""Metrics of the test set by name."""
