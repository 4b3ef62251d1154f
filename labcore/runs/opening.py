"""What `lab train` says first: data, model, device and folder of a run. Once steps are measured, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from labcore.config import BaseRunConfig, DataConfig
from labcore.data import fashion_mnist
from labcore.data.arrow import is_arrow, split_names
from labcore.data.folder import HOLD_OUT
from labcore.data.protocol import Dataset
from labcore.kinds import kind_of
from labcore.plan import duration
from labcore.processes import process_share
from labcore.provenance import device_name
from labcore.train import checkpoint
from labcore.train.log import Reporter

Rows = list[tuple[str, str]]
NAMED = 12
"""Classes that are named one by one; of more, the largest and the smallest are."""
MEASURED = 10
"""Steps, after the first, that the time of a run is estimated from; our choice."""
CROPS = {"fit": "the largest middle square, resized", "adm": "resized, then the middle square (ADM)"}
COLOURS = {1: "grey (1 channel)", 3: "RGB (3 channels)"}


def opening(config: BaseRunConfig, folder: Path, settings: str, train: Dataset, test: Dataset) -> Rows:
    """Describe a run before it starts: names and sentences.

    folder: where it writes. settings: where the configuration comes from. train, test: its pictures (`labcore.data`).
    """
    return [
        *of_data(config.data, train, test),
        *_of_model(config),
        ("settings", settings),
        *_of_training(config, folder, train),
    ]


def of_data(data: DataConfig, train: Dataset, test: Dataset) -> Rows:
    """Describe pictures: source, number, classes with their number of training images, splits, channels, transparency."""
    limit = "" if data.limit is None else f" (data.limit: at most {data.limit:,} of each split, evenly spread)"
    rows = [
        ("data", _source(data)),
        ("images", f"{len(train):,} for training, {len(test):,} for testing{limit}"),
        ("classes", class_counts(train)),
    ]
    if uneven := imbalance(train):
        rows.append(("imbalance", uneven))
    side = f"{train.image_size} x {train.image_size} pixels, {COLOURS[train.channels]}"
    crop = f"; of each picture {CROPS[data.crop or 'fit']}" if data.name == "folder" else ""
    flip = "; each training image is mirrored with probability 1/2" if data.flip else ""
    return [
        *rows,
        ("split", split_rule(data, train)),
        ("pixels", f"{side}{crop}{flip}"),
        ("transparency", "transparent pixels are laid on white" if data.name == "folder" else "the images have none"),
    ]


def class_counts(images: Dataset) -> str:
    """Name the classes of a data set with the number of images of each; of many, the largest and smallest three."""
    counts = _counts(images)
    if len(counts) == 1:
        return f"1: {counts[0][0]}"
    if counts[0][1] == counts[-1][1]:
        names = ", ".join(images.classes) if len(counts) <= NAMED else f"{images.classes[0]} to {images.classes[-1]}"
        return f"{len(counts)} with {counts[0][1]:,} training images each: {names}"
    said = [f"{name} {count:,}" for name, count in counts]
    if len(said) > NAMED:
        said = [*said[:3], "...", *said[-3:]]
    return f"{len(counts)}, with the number of training images: {', '.join(said)}"


def imbalance(images: Dataset) -> str | None:
    """Compare the largest class with the smallest, in one line; None if all have equally many images."""
    (largest, most), (smallest, fewest) = (counts := _counts(images))[0], counts[-1]
    if most == fewest:
        return None
    if not fewest:
        return f"{smallest} has no training image"
    return f"the largest class ({largest}) has {most / fewest:.3g} times as many images as the smallest ({smallest})"


def _counts(images: Dataset) -> list[tuple[str, int]]:
    """Classes and their numbers of images, the largest first."""
    counts = images.labels.bincount(minlength=images.num_classes).tolist()
    return sorted(zip(images.classes, counts, strict=True), key=lambda each: -each[1])


def split_rule(data: DataConfig, train: Dataset) -> str:
    """Say which images are for training, and which for testing."""
    if data.name != "folder":
        return "the data set's own"
    if is_arrow(data.path):
        names = split_names(data.path)
        return f"the files' own: {names['train']} for training, {names['test']} for testing"
    if (first := Path(train.files[0]).parts[0]) not in train.classes:
        return f"the folder's own; {first} is for training"
    return f"every {HOLD_OUT}th file of a class, in sorted order, is for testing"


def _source(data: DataConfig) -> str:
    if data.name == "fashion-mnist-12k":
        return "fashion-mnist-12k, a part of Fashion-MNIST that ships with labcore"
    if data.name == "fashion-mnist":
        return f"fashion-mnist, from {fashion_mnist.find(data.path)}"
    return f"{'Arrow or Parquet files' if is_arrow(data.path) else 'picture files'} in {data.path}"


def _of_model(config: BaseRunConfig) -> Rows:
    m = config.model
    classes = _counted(m.num_classes, "class") if m.num_classes else "no classes"
    layers = f"{_counted(m.num_blocks, 'block')} of {_counted(m.layers_per_block, 'layer')}"
    size = f"{layers}, width {m.width}, {_counted(m.tokens, 'token')} an image, {classes}"
    latents = "" if m.codec is None else f", of latents of {m.codec}"
    rows = [("model", f"{kind_of(config).name}: {size}{latents}")]
    if config.encoder is not None:
        rows.append(("encoder", f"{config.encoder.encoder}, frozen; the features are aligned with its tokens"))
    if config.teacher is not None:
        rows.append(("teacher", f"{config.teacher}, frozen"))
    return rows


def _of_training(config: BaseRunConfig, folder: Path, train: Dataset) -> Rows:
    t, world = config.train, process_share()[1]
    passes = t.steps * t.batch_size / len(train)
    chosen = "auto: chosen before the first step" if t.precision == "auto" else t.precision
    resumes = "; the run goes on from its newest complete checkpoint" if checkpoint.folders(folder) else ""
    rows = [
        (
            "training",
            f"{_counted(t.steps, 'step')} of {_counted(t.batch_size, 'image')}, {passes:.3g} passes over the training images",
        ),
        ("device", device_name() + (f", one of {world} processes" if world > 1 else "")),
        ("precision", chosen),
        ("writes to", f"{folder}{resumes}"),
    ]
    return [*rows, ("time", f"is estimated after {MEASURED + 1} steps")] if t.steps > MEASURED + 1 else rows


def _counted(number: int, noun: str) -> str:
    """A number with its noun, as in "1 step" and "2 classes"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def remaining(steps: int, seconds: float) -> str:
    """Say how long so many more steps take, from the seconds of one."""
    return (
        f"time: {duration(steps * seconds)} for the remaining {_counted(steps, 'step')}, estimated from {seconds:.3g} s a "
        f"step over {MEASURED} steps; evaluations and checkpoints come on top"
    )


class Estimating:
    """Another reporter, and one message more: how long the run will take, after MEASURED steps.

    The first step after a start does not count, since it prepares things. A run with fewer steps left gets no message.
    """

    def __init__(self, reporter: Reporter, clock: Callable[[], float] = time.perf_counter):
        self.say, self.record, self.close = reporter.say, reporter.record, reporter.close
        self._reporter, self._clock = reporter, clock
        self._first: int | None = None  # the step that the run began or resumed at
        self._began = 0.0

    def advance(self, step: int, total: int) -> None:
        """Take note of a step, and say the estimate when enough of them are measured."""
        self._reporter.advance(step, total)
        if self._first is None:
            self._first = step
        elif step == self._first + 1:
            self._began = self._clock()
        elif step == self._first + 1 + MEASURED and step < total:
            self.say(remaining(total - step, (self._clock() - self._began) / MEASURED))
