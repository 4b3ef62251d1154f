"""First output of `lab train`: data, model, device and folder of a run; after some steps, an estimate of the run's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from labcore.config import BaseRunConfig, DataConfig
from labcore.data import fashion_mnist
from labcore.data.arrow_files import is_arrow, split_names
from labcore.data.emoji.font import find_font
from labcore.data.folder import own_splits
from labcore.data.picture import WHITE
from labcore.data.protocol import Dataset
from labcore.data.splits import SplitRule, chosen_rule
from labcore.kinds import kind_of
from labcore.plan import duration
from labcore.processes import process_share
from labcore.provenance import device_name
from labcore.train import checkpoint
from labcore.train.log import Reporter

SAMPLING = {
    None: "; train.sampling=balanced would draw all classes equally often",
    "balanced": "; all classes are drawn equally often",
}
Rows = list[tuple[str, str]]
NAMED = 12
"""Largest number of classes that are all named; of more classes, only the largest and the smallest are named."""
MEASURED = 10
"""Number of steps, after the first, from which the time of a run is estimated; our choice."""
CROPS = {"fit": "the largest middle square, resized", "adm": "resized, then the middle square (ADM)"}
COLOURS = {1: "grey (1 channel)", 3: "RGB (3 channels)"}


def opening(config: BaseRunConfig, folder: Path, settings: str, train: Dataset, test: Dataset) -> Rows:
    """Describe a run before it starts: names and sentences.

    folder: the run's folder. settings: the origin of the configuration. train, test: the run's pictures (`labcore.data`).
    """
    return [
        *of_data(config.data, train, test, SAMPLING[config.train.sampling]),
        *_of_model(config),
        ("settings", settings + _hint(settings, train)),
        *_of_training(config, folder, train),
    ]


def _hint(settings: str, train: Dataset) -> str:
    """Point to presets for colour pictures if the default preset is used for some."""
    if train.channels == 1 or "preset fashion-small" not in settings:
        return ""
    return (
        "; it is made for small grey pictures: --preset pictures-32-small, pictures-32 and pictures-64 are for colour"
    )


def of_data(data: DataConfig, train: Dataset, test: Dataset, sampling: str = "") -> Rows:
    """Describe pictures: source, number, classes with their number of training images, splits, channels, transparency.

    sampling: how the training samples classes of different sizes, as the end of a sentence.
    """
    limit = "" if data.limit is None else f" (data.limit: at most {data.limit:,} of each split, evenly spread)"
    rows = [
        ("data", _source(data)),
        ("images", f"{len(train):,} for training, {len(test):,} for testing{limit}"),
        ("classes", class_counts(train)),
    ]
    if uneven := imbalance(train):
        rows.append(("imbalance", uneven + sampling))
    side = f"{train.image_size} x {train.image_size} pixels, {COLOURS[train.channels]}"
    small = smaller(train)
    crop = f"; of each picture {CROPS[data.crop or 'fit']}" if data.name == "folder" else ""
    flip = "; each training image is mirrored with probability 1/2" if data.flip else ""
    if equal := duplicates(train, test):
        rows.append(("duplicates", equal))
    return [
        *rows,
        ("split", split_rule(data)),
        ("pixels", f"{side}{crop}{flip}{small}"),
        ("transparency", transparency(data, train)),
    ]


def smaller(images: Dataset) -> str:
    """Say that some files of a folder have fewer pixels than the images of the run; "" where none has."""
    headers = getattr(images, "headers", None)
    if headers is None or headers.least >= images.image_size:
        return ""
    return f"; smaller pictures are enlarged, the smallest from {headers.least} pixels"


def transparency(data: DataConfig, train: Dataset) -> str:
    """Say how many pictures may have transparent pixels, and which background these get."""
    if data.name != "folder":
        return "the images have none"
    laid = f"transparent pixels are laid on {data.background or WHITE} (data.background)"
    if (headers := getattr(train, "headers", None)) is None:
        return laid
    if not headers.transparency:
        return f"no picture of {headers.opened:,} opened has any"
    return f"{headers.transparency:,} of {headers.opened:,} pictures opened may have some; {laid}"


def duplicates(train: Dataset, test: Dataset) -> str | None:
    """Say how many pictures equal an earlier one, and how many test images are training images; None if all differ.

    Files of a folder are compared by their contents, pictures in memory by their pixels, and Arrow files not at all.
    """
    parts = [images.contents() for images in (train, test)]
    if None in parts:
        return None
    of_train = set(parts[0])
    repeated = sum(map(len, parts)) - len(of_train.union(parts[1]))
    if not repeated:
        return None
    both = sum(each in of_train for each in parts[1])
    equal = "1 picture equals" if repeated == 1 else f"{repeated:,} pictures equal"
    also = "1 test image is a training image" if both == 1 else f"{both:,} test images are training images"
    return f"{equal} an earlier one, and {also}; see lab data"


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
    """Compare the largest class of a data set with the smallest; None if all have equally many images."""
    return imbalance_of(images.classes, images.labels.bincount(minlength=images.num_classes).tolist())


def imbalance_of(classes: Sequence[str], counts: Sequence[int]) -> str | None:
    """Compare the largest class with the smallest, in one line; None if all have equally many images."""
    ordered = sorted(zip(classes, counts, strict=True), key=lambda each: -each[1])
    (largest, most), (smallest, fewest) = ordered[0], ordered[-1]
    if most == fewest:
        return None
    if not fewest:
        return f"{smallest} has no training image"
    return f"the largest class ({largest}) has {most / fewest:.3g} times as many images as the smallest ({smallest})"


def _counts(images: Dataset) -> list[tuple[str, int]]:
    """Classes and their numbers of images, the largest first."""
    counts = images.labels.bincount(minlength=images.num_classes).tolist()
    return sorted(zip(images.classes, counts, strict=True), key=lambda each: -each[1])


def split_rule(data: DataConfig) -> str:
    """Say which images are for training, and which for testing."""
    if data.name != "folder":
        return "the data set's own"
    if is_arrow(data.path):
        names = split_names(data.path)
        return f"the files' own: {names['train']} for training, {names['test']} for testing"
    if own := own_splits(data.path):
        return "the folder's own: " + ", ".join(f"{folder} for {split}ing" for split, folder in own.items())
    rule = chosen_rule(data.test_share, data.split_seed)
    return str(rule) if rule else f"{SplitRule()}; data.test_share and data.split_seed change this"


def _source(data: DataConfig) -> str:
    if data.name == "fashion-mnist-12k":
        return "fashion-mnist-12k, a part of Fashion-MNIST that ships with labcore"
    if data.name == "fashion-mnist":
        return f"fashion-mnist, from {fashion_mnist.find_folder(data.path)}"
    if data.name == "emoji-32":
        return "emoji-32, emoji of Noto that ship with labcore"
    if data.name == "emoji":
        return f"emoji, of the font {find_font(data.path)}"
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
    begun = checkpoint.newest(folder)
    done = begun.step if begun else 0
    resumes = "; the run continues from its newest complete checkpoint" if begun else ""
    rows = [
        (
            "training",
            f"{_counted(t.steps, 'step')} of {_counted(t.batch_size, 'image')}, {passes:.3g} passes over the training images",
        ),
        ("device", device_name() + (f", one of {world} processes" if world > 1 else "")),
        ("precision", chosen),
        ("writes to", f"{folder}{resumes}"),
    ]
    if t.steps - done > MEASURED + 1:  # fewer get no estimate
        rows.append(("time", f"is estimated after {MEASURED + 1} steps"))
    return rows


def _counted(number: int, noun: str) -> str:
    """A number with its noun, as in "1 step" and "2 classes"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def remaining(steps: int, seconds: float) -> str:
    """Say how long the remaining steps take, from the seconds of one step."""
    return (
        f"time: {duration(steps * seconds)} for the remaining {_counted(steps, 'step')}, estimated from {seconds:.3g} s a "
        f"step over {MEASURED} steps; evaluations and checkpoints come on top"
    )


class Estimating:
    """Wrapper of a reporter that adds one message: the estimated time of the run, after MEASURED steps.

    The first step after a start does not count, because it includes preparations. A run with fewer steps left gets no message.
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
