"""Statistics of reference images for comparison with generated ones: computed once and saved with a description.

A file holds mean and covariance of pooled and spatial features over all images (float64), and the pooled features of a
fixed random subset of at most 10,000 images (ADM's evaluator uses such a subset for precision and recall). It also holds
their origin: data, size, extractor, hash of its weights, resize, version of the features. Statistics of another origin,
and files that have changed since they were saved, are rejected with the reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from labcore import provenance
from labcore.data.protocol import Dataset
from labcore.derived import store_of
from labcore.evaluate.extractors import FEATURE_VERSION, POOL, SPATIAL, Extractor
from labcore.files import cache_folder, make_folder, replacing, sha256_of
from labcore.finite import check_result, images_from
from labcore.jsonfile import parse_json
from labcore.progress import Progress
from labcore.reading import parts_of
from labcore.rng import generator
from labcore.store import Rows, Store
from labcore.tensors import checksum

SCHEMA = 2
"""Version of the file. 2: it holds a checksum."""
CHUNK = 32  # images at a time through the extractor; fixed, so that no metric depends on a batch size
MOMENT_ROWS = 2048  # rows of features summed at a time
MOST_FEATURES = 10_000


@dataclass(frozen=True)
class Moments:
    """mean (d,) and covariance (d, d) of n rows, float64, unbiased."""

    mean: Float64[Tensor, " d"]
    cov: Float64[Tensor, "d d"]
    n: int


@dataclass(frozen=True)
class Reference:
    """Statistics of a set of images. about: data, image_size, channels, n, extractor, weights, resize, made_with, floor."""

    pool: Moments
    spatial: Moments
    features: Float[Tensor, "m d"]  # pooled, of a fixed random subset
    about: dict[str, Any]

    def check(self, extractor: Extractor, image_size: int | None = None, channels: int | None = None) -> None:
        """Raise ValueError unless these statistics were made with `extractor`, on images of that size."""
        want = dict(extractor.identity)
        if image_size is not None:
            want["image_size"] = image_size
        if channels is not None:
            want["channels"] = channels
        for what, value in want.items():
            if self.about.get(what) != value:
                raise ValueError(
                    f"the statistics of {self.about.get('data')} were made with {what} {self.about.get(what)!r}, and here "
                    f"it is {value!r}; make statistics that fit with `lab stats`"
                )
        widths = {POOL: len(self.pool.mean), SPATIAL: len(self.spatial.mean)}
        if wrong := [layer for layer, width in widths.items() if width != extractor.widths[layer]]:
            raise ValueError(
                f"the statistics of {self.about.get('data')} have {widths[wrong[0]]} {wrong[0]} features, and "
                f"{extractor.name} has {extractor.widths[wrong[0]]}; make statistics with `lab stats`"
            )


def image_features(
    dataset: Dataset,
    extractor: Extractor,
    root: Path | None = None,
    progress: Progress | None = None,
    num_workers: int | None = None,
) -> Store:
    """Return arrays pool, spatial and logits of all images of `dataset`, float32, on disk; see `labcore.store`.

    dataset: len, fingerprint(), and `__getitems__` that returns uint8 images and labels. num_workers: processes that read
    and decode them; None for `labcore.reading.readers`. Raises ValueError for features that are not finite.
    """

    def compute(parts: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        for part, (pixels, _) in zip(parts, parts_of(dataset, parts, extractor.device, num_workers), strict=True):
            found = extractor(pixels)
            for layer, values in found.items():
                if not bool(values.isfinite().all()):
                    raise ValueError(
                        f"{layer} features of images {part.start} to {part.stop - 1} are not finite: the weights of "
                        f"{extractor.name} are damaged"
                    )
            yield found

    def key(fingerprint: str) -> dict[str, Any]:
        return {"what": "features", "data": fingerprint, **extractor.identity}

    arrays = {layer: Rows((width,), "float32") for layer, width in extractor.widths.items()}
    name = f"{dataset.name}-{dataset.split}" if dataset.split in ("train", "test") else dataset.name
    where = root or cache_folder() / "fidelity"
    store = store_of(dataset, where, f"{name}-{extractor.name}", key, arrays, CHUNK)
    return store.fill_in_turn(compute, progress)


def moments(rows: Float[Tensor, "n d"], index: Int64[Tensor, " m"] | None = None) -> Moments:
    """Return mean and covariance of the rows (of those at `index`), in float64, with some thousand rows in memory at a time.

    Raises ValueError for fewer than 2 rows, and `labcore.finite.NotFinite` for rows that are not finite.
    """
    parts = (torch.arange(len(rows)) if index is None else index).split(MOMENT_ROWS)
    n = sum(len(part) for part in parts)
    if n < 2:
        raise ValueError(f"{n} rows; a covariance needs at least 2")
    for start, part in zip(range(0, n, MOMENT_ROWS), parts, strict=True):
        with images_from(start):
            check_result(
                rows[part], "moments", "among their features", advice="look at the images and the extractor's weights"
            )
    mean = sum(rows[part].double().sum(0) for part in parts) / n
    cov = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in parts:
        centred = rows[part].double() - mean
        cov.addmm_(centred.T, centred)
    return Moments(mean, cov / (n - 1), n)


def describe(dataset: Dataset, extractor: Any) -> dict[str, Any]:
    """Describe statistics of `dataset` and the maker of the features: an `Extractor`, or `pixels.Pixels`."""
    return {
        "data": f"{dataset.name}/{dataset.split}",
        "fingerprint": dataset.fingerprint(),
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "n": len(dataset),
        **extractor.identity,
    }


def make_reference(
    dataset: Dataset, extractor: Extractor, root: Path | None = None, progress: Progress | None = None
) -> Reference:
    """Compute statistics of all images of `dataset`. Raises ValueError for fewer than 2 images, and for equal images."""
    where = f"{getattr(dataset, 'path', dataset.name)} ({dataset.split})"
    if len(dataset) < 2:
        raise ValueError(
            f"{where} has {len(dataset)} images, and a covariance needs at least 2; fid and sfid need "
            f"{extractor.widths[POOL] + 1} and {extractor.widths[SPATIAL] + 1} with {extractor.name}. Add images"
        )
    features = image_features(dataset, extractor, root, progress)
    check_varied(features, f"statistics of {where} would say nothing; look at some")
    order = torch.randperm(len(dataset), generator=generator(0, "reference"))
    made_with = provenance.stamp("timm", "torch-fidelity")
    about = {"schema": SCHEMA, **describe(dataset, extractor), "made_with": made_with}
    subset = order[:MOST_FEATURES].sort().values
    shuffled = subset[torch.randperm(len(subset), generator=generator(0, "reference rows"))]
    return Reference(moments(features[POOL]), moments(features[SPATIAL]), features[POOL][shuffled].clone(), about)


def check_varied(features: Store, why: str) -> None:
    """Raise ValueError, ending in `why`, if all images are equal for the extractor."""
    pool = features[POOL]
    if all(bool((part == pool[0]).all()) for part in pool.split(MOMENT_ROWS)):
        raise ValueError(f"all {len(pool)} images are the same to the extractor: {why}")


def file_name(dataset: Dataset, extractor: Extractor, fingerprint: str | None = None) -> str:
    """Return the file name for statistics of `dataset`: data, extractor, the hashes of both, and the version of features.

    fingerprint: of the data set, if it is known by an earlier one.
    """
    fingerprint = fingerprint or dataset.fingerprint()
    weights, version = extractor.identity["weights"], extractor.identity["feature_version"]
    return f"{dataset.name}-{dataset.split}-{extractor.name}-{weights}-v{version}-{fingerprint}.safetensors"


def save_reference(reference: Reference, path: Path) -> None:
    """Write one safetensors file atomically."""
    from safetensors.torch import save_file

    make_folder(path.parent)
    tensors = {
        "pool.mean": reference.pool.mean,
        "pool.cov": reference.pool.cov,
        "spatial.mean": reference.spatial.mean,
        "spatial.cov": reference.spatial.cov,
        "features": reference.features,
    }
    about = json.dumps(reference.about)
    with replacing(path) as new:
        save_file(tensors, new, metadata={"labcore": about, "sha256": _digest(about, tensors)})


def load_reference(path: str | Path) -> Reference:
    """Read a file of `save_reference`. Raises FileNotFoundError, or ValueError for another kind of file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no statistics at {path}; make them with `lab stats`")
    if path.suffix.lower() == ".npz":
        raise ValueError(f"{path} is a reference batch; make statistics of it: lab stats {path} --out FILE")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            about = parse_json(metadata.get("labcore", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        problem = _problem_of_about(about) or _problem_of_tensors(tensors, about["n"])
        if not problem and metadata.get("sha256") != _digest(metadata["labcore"], tensors):
            problem = "its contents have changed since it was saved (sha256 differs)"
    except (SafetensorError, OSError, ValueError) as error:
        problem = str(error)
    if problem:
        raise ValueError(
            f"{path} cannot be used as statistics ({problem}); remove it, and make a file with `lab stats`"
        )
    layers = [Moments(tensors[f"{layer}.mean"], tensors[f"{layer}.cov"], about["n"]) for layer in (POOL, SPATIAL)]
    return Reference(*layers, tensors["features"], about)


def _digest(about: str, tensors: dict[str, Tensor]) -> str:
    """Return the sha256 of the description and all tensors, 64 hex digits."""
    return sha256_of({"about": about, "tensors": checksum(tensors)})


_ABOUT = {
    **dict.fromkeys(("data", "fingerprint", "extractor", "weights", "resize"), str),
    **dict.fromkeys(("image_size", "channels", "n"), int),
    "made_with": dict,
}


def _problem_of_about(about: Any) -> str | None:
    """Return the problem of a file's description in words; None if there is none."""
    if not isinstance(about, dict):
        return "its description is not a dictionary"
    if about.get("schema") != SCHEMA:
        return f"it has schema {about.get('schema')}, and this version reads {SCHEMA}"
    if about.get("feature_version") != FEATURE_VERSION:
        return (
            f"its features are of version {about.get('feature_version', 1)}, and this labcore makes version "
            f"{FEATURE_VERSION}; the two cannot be compared"
        )
    for name, kind in _ABOUT.items():
        if type(about.get(name)) is not kind:
            return f"{name} is {about.get(name)!r}, not of type {kind.__name__}"
    if about["n"] < 2:
        return f"n is {about['n']}, and a covariance needs at least 2"
    floor = about.get("floor")
    if floor is not None and not _is_floor(floor):
        return f"floor is {floor!r}, not the number of images and the values of metrics"
    return None


def _is_floor(floor: Any) -> bool:
    values = floor.get("values") if isinstance(floor, dict) else None
    if not isinstance(values, dict) or type(floor.get("n")) is not int:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values.values())


def _problem_of_tensors(tensors: dict[str, Tensor], n: int) -> str | None:
    """Return the problem of the statistics of `n` images in words; None if there is none."""
    names = {f"{layer}.{part}" for layer in (POOL, SPATIAL) for part in ("mean", "cov")} | {"features"}
    if set(tensors) != names:
        return f"it holds {', '.join(sorted(tensors)) or 'nothing'}, not {', '.join(sorted(names))}"
    widths = {layer: tensors[f"{layer}.mean"].numel() for layer in (POOL, SPATIAL)}
    shapes = {"features": (min(n, MOST_FEATURES), widths[POOL])}
    for layer, d in widths.items():
        shapes |= {f"{layer}.mean": (d,), f"{layer}.cov": (d, d)}
    for name, values in tensors.items():
        if tuple(values.shape) != shapes[name]:
            return f"{name} has shape {tuple(values.shape)}, not {shapes[name]}"
        dtype = torch.float32 if name == "features" else torch.float64
        if values.dtype != dtype:
            return f"{name} is {values.dtype}, not {dtype}"
        if not bool(values.isfinite().all()):
            return f"{name} holds NaN or infinity"
    return None
