"""What measures of pixels compare with: statistics of a data set's train split, kept in the cache folder."""

from __future__ import annotations

import contextlib
from typing import Any

from labcore.config import TokensConfig
from labcore.data.class_names import matched
from labcore.data.datasets import Data
from labcore.evaluate import pixels
from labcore.evaluate.statistics import describe
from labcore.files import cache_folder, make_folder, sha256_of
from labcore.jsonfile import read_json, write_json


def pixel_reference_of(data: Data, model: TokensConfig | None = None) -> pixels.PixelReference:
    """What measures of pixels compare with: the train split, with the floor from the test split; kept in the cache.

    model: classes in its order; None: in the data's. Raises as `labcore.data.class_names.matched`.
    """
    in_order = (lambda images: images) if model is None else (lambda images: matched(model, images))
    train, test = in_order(data.split("train")), test_split(data)
    key = {**describe(train, pixels.Pixels), "classes": list(train.classes)}
    path = cache_folder() / "statistics" / f"{train.name}-{train.split}-pixels-{sha256_of(key)[:16]}.json"
    if path.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged: it is made anew
            kept = read_json(path)
            if kept["sha256"] == sha256_of(kept["reference"]):
                return pixels.PixelReference.from_dict(kept["reference"])
    reference = pixels.make_pixel_reference(train, None if test is None else in_order(test))
    make_folder(path.parent)
    values = reference.as_dict()
    write_json(path, {"reference": values, "sha256": sha256_of(values)})
    return reference


def test_split(data: Data) -> Any | None:
    """The test split of a data set; None where it has none."""
    try:
        return data.split("test")
    except ValueError:
        return None  # a folder with no test images: statistics without a floor
