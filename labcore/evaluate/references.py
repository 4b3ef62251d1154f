"""Statistics of real images for comparison with drawn ones: read from a file or the cache, or computed."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from labcore.data.datasets import Data
from labcore.derived import known_as
from labcore.evaluate import adm, fidelity
from labcore.evaluate.extractors import Extractor
from labcore.evaluate.pixel_reference import test_split
from labcore.evaluate.statistics import (
    Reference,
    file_name,
    load_reference,
    make_reference,
    save_reference,
)
from labcore.files import cache_folder, check_file
from labcore.in_use import note_use
from labcore.processes import is_first_process
from labcore.progress import Progress


def reference_of(
    data: Data, extractor: Extractor, path: Path | None = None, progress: Progress | None = None
) -> Reference:
    """Return statistics of the train split, with the floor from the test split; read from `path` or the cache if possible.

    Several processes share the features; the first one writes the file. A damaged file in the cache is made again, with a
    warning; a damaged file elsewhere is a ValueError.
    """
    train = data.split("train")
    if path is not None:
        check_file(path)
    place = cache_folder() / "statistics"
    kept_as = known_as(train, lambda fingerprint: (place / file_name(train, extractor, fingerprint)).is_file())
    path = path or place / file_name(train, extractor, kept_as)
    found = _found_reference(path)
    if found is not None:
        found.check(extractor, train.image_size, train.channels)
        own = train.fingerprint()
        if found.about["fingerprint"] not in (own, train.named_fingerprint()):
            raise ValueError(f"{path} holds statistics of other images ({found.about['data']}); give another file")
        return replace(found, about={**found.about, "fingerprint": own})  # records compare it with that of the images
    reference = make_reference(train, extractor, progress=progress)
    test = test_split(data)
    if test is not None:
        reference = fidelity.with_floor(reference, test, extractor, progress)
    if is_first_process():
        save_reference(reference, path)
    return reference


def _found_reference(path: Path) -> Reference | None:
    """Return the statistics in a file; None if there is none, and, after a warning, for an unusable file of the cache."""
    if not path.is_file():
        return None
    cached = path.parent == cache_folder() / "statistics"
    try:
        found = load_reference(path)
    except ValueError as error:
        if not cached:
            raise
        warnings.warn(f"{error}. The file is in the cache and is made again now", stacklevel=3)
        return None
    if cached:
        note_use(path)
    return found


def reference_of_batch(
    batch: Path, extractor: Extractor, path: Path | None, progress: Progress | None = None
) -> Reference:
    """Return statistics of ADM's reference batch (`labcore.evaluate.adm`), written to `path`; ValueError without a path."""
    if path is None:
        raise ValueError(
            f"no --out was given; give a file for the statistics of {batch.name}, for `lab evaluate --reference`"
        )
    if adm.is_reference(path):
        raise ValueError(f"--out was {path}; statistics are a file of their own, as {path.stem}.safetensors")
    check_file(path)
    found = adm.read_reference(batch, extractor, progress=progress)
    save_reference(found, path)
    return found
