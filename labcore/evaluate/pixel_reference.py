"""References of pixel measures: statistics of a data set's train split, kept in the cache folder."""

from __future__ import annotations

import warnings
from pathlib import Path

from labcore.data.class_names import HasClasses, matched
from labcore.data.datasets import Data
from labcore.data.protocol import Dataset
from labcore.evaluate import pixels
from labcore.evaluate.statistics import describe
from labcore.files import cache_folder, make_folder, sha256_of
from labcore.in_use import note_use
from labcore.jsonfile import read_json, write_json


def pixel_reference_of(data: Data, model: HasClasses | None = None) -> pixels.PixelReference:
    """Return the reference of pixel measures: the train split, with the floor from the test split; kept in the cache folder.

    model: classes in its order; None: in the data's. A damaged file is made again, with a warning. Errors as of
    `labcore.data.class_names.matched`.
    """
    in_order = (lambda images: images) if model is None else (lambda images: matched(model, images))
    train, test = in_order(data.split("train")), test_split(data)
    key = {**describe(train, pixels.Pixels), "classes": list(train.classes)}
    path = cache_folder() / "statistics" / f"{train.name}-{train.split}-pixels-{sha256_of(key)[:16]}.json"
    found = _found(path)
    if found is not None:
        return found
    reference = pixels.make_pixel_reference(train, None if test is None else in_order(test))
    make_folder(path.parent)
    values = reference.as_dict()
    write_json(path, {"reference": values, "sha256": sha256_of(values)})
    return reference


def _found(path: Path) -> pixels.PixelReference | None:
    """Return the statistics in a file of the cache; None if there is none, and, after a warning, if it is damaged."""
    if not path.is_file():
        return None
    try:
        stored = read_json(path)
        if stored["sha256"] != sha256_of(stored["reference"]):
            raise ValueError("its checksum does not match")
        found = pixels.PixelReference.from_dict(stored["reference"])
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is damaged ({error}). The file is in the cache and is made again now", stacklevel=3)
        return None
    note_use(path)
    return found


def test_split(data: Data) -> Dataset | None:
    """Return the test split of a data set; None if it has none."""
    try:
        return data.split("test")
    except ValueError:
        return None  # a folder with no test images: statistics without a floor
