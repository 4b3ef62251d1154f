"""Images of a run, or their latents: reading, a check against the model, and their fingerprint."""

from __future__ import annotations

import warnings
from pathlib import Path

from labcore.config import BaseRunConfig
from labcore.data.datasets import Data
from labcore.data.protocol import Dataset
from labcore.latents import seen_by
from labcore.processes import process_device
from labcore.progress import show_progress
from labcore.spread import spread
from labcore.train import checkpoint


def datasets(config: BaseRunConfig) -> tuple[Dataset, Dataset]:
    """Return training and test images, or their latents; ValueError if they do not fit the model."""
    return as_seen(config, *pictures(config))


def as_seen(config: BaseRunConfig, train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Return training and test pictures as the model sees them: as they are, or their latents, which are computed once."""
    m, device, progress = config.model, process_device(), show_progress()
    training = seen_by(m, train, device, config.data.flip, progress=progress)
    return training, seen_by(m, test, device, progress=progress)


def pictures(config: BaseRunConfig) -> tuple[Dataset, Dataset]:
    """Return training and test images of a run as pictures; ValueError if they do not fit the model."""
    d, m = config.data, config.model
    parts = [spread(Data.of(d).split(split), d.limit) for split in ("train", "test")]
    for part in parts:
        if m.codec is None and (shape := (part.channels, part.image_size, part.image_size)) != m.image_shape:
            data_size, model_size = (" x ".join(map(str, size)) for size in (shape, m.image_shape))
            raise ValueError(
                f"the {d.name} images are {data_size}, the model takes {model_size}; "
                "set data.image_size and data.channels, or the model's (images of data sets are square)"
            )
        if m.num_classes not in (0, part.num_classes):
            raise ValueError(
                f"the data has {part.num_classes} classes and the model {m.num_classes}; "
                f"set num_classes to {part.num_classes}, or 0 for an unconditional model"
            )
    if len(parts[1]) < 2:
        raise ValueError(
            f"the {d.name} data have {len(parts[1])} test image{' with data.limit=1' if d.limit == 1 else ''}; a test "
            "likelihood needs at least 2"
        )
    return parts[0], parts[1]


def data_fingerprint(folder: Path, images: Dataset) -> str:
    """Return the fingerprint by which the run in `folder` identifies its data: today's, or an earlier one if it began with one.

    Earlier fingerprints include the name of the data's folder. The oldest ones include only names and lengths of files; a run
    that began with one keeps it, with a warning.
    """
    found = images.fingerprint()
    begun = checkpoint.newest(folder)
    began = None if begun is None else begun.state["run"].get("data_fingerprint")
    if began in (None, found):
        return found
    if began == images.named_fingerprint():
        return began
    if began != images.older_fingerprint():
        return found
    warnings.warn(
        f"the run in {folder} was started by a version that identified data by the names and lengths of files, and keeps "
        "this; pictures that were replaced by others of the same length are not noticed",
        stacklevel=2,
    )
    return began
