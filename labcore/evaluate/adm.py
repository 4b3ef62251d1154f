"""ADM's reference batches (.npz), with which published FID, sFID, precision and recall of ImageNet are computed.

A file of github.com/openai/guided-diffusion, evaluations/, holds uint8 images `arr_0` (n, h, w, 3), and mean and covariance of
pooled and spatial Inception features, `mu`, `sigma`, `mu_s`, `sigma_s`. The moments may be over more images than the file has:
for ImageNet 256 they are over the whole training set, and the file has 10,000 images. FID and sFID are computed with the file's
moments; precision, recall and KID with features of its images, which our Inception computes here. Files without moments are
references by their images alone.

The file's moments were computed by TensorFlow. To check that our Inception agrees, statistics record the Frechet distance of
the images' own features to these moments; for 10,000 images of the same kind it is a few units.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labcore.data.images import ImageData
from labcore.evaluate.extractors import POOL, SPATIAL, Extractor
from labcore.evaluate.fidelity import Frechet
from labcore.evaluate.statistics import Moments, Reference, image_features, make_reference, moments
from labcore.progress import Progress

IMAGES = "arr_0"
MOMENTS = {POOL: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
MOST_TIMES = 50
"""Largest ratio of the arrays' size to the file's: compressed pictures take about a half, uniform ones some percent."""


def read_reference(
    path: str | Path, extractor: Extractor, root: Path | None = None, progress: Progress | None = None
) -> Reference:
    """Read statistics from a reference batch: its own moments if `extractor` is Inception, else those of its images.

    about["moments"] names the choice; about["distance"] has the Frechet distance of the images to the file's moments, by
    layer. n is the number of images in the file. Raises FileNotFoundError, and ValueError for a file that is not a
    reference batch.
    """
    path = Path(path)
    images, given = _read(path)
    of_images = make_reference(images, extractor, root, progress)
    if extractor.name != "inception" or not given:
        return replace(of_images, about={**of_images.about, "moments": "of the images in the file"})
    features = image_features(images, extractor, root)
    own: dict[str, Moments] = {}
    for layer, (mean, cov) in given.items():
        if len(mean) != extractor.widths[layer] or cov.shape != (len(mean), len(mean)):
            raise ValueError(
                f"{path} has {layer} moments of shape {tuple(mean.shape)} and {tuple(cov.shape)}; {extractor.name} has "
                f"{extractor.widths[layer]} features. Give a reference batch of ADM's"
            )
        own[layer] = Moments(mean, cov, len(images))
    distance = {layer: Frechet(own[layer]).exact(moments(features[layer])) for layer in own}
    about = {**of_images.about, "moments": "the file's", "distance": distance}
    pool, spatial = own.get(POOL, of_images.pool), own.get(SPATIAL, of_images.spatial)
    return Reference(pool, spatial, of_images.features, about)


def in_words(reference: Reference, where: Path | None) -> str:
    """Describe such statistics to a user."""
    a = reference.about
    lines = [
        f"statistics of {a['n']:,} images of {a['image_size']} pixels in {where}; mean and covariance are {a['moments']}"
    ]
    if "distance" in a:
        found = ", ".join(f"{value:.3g} ({layer})" for layer, value in a["distance"].items())
        lines.append(
            f"Frechet distance of the images to the file's moments: {found}. Far more than a few units would mean that images "
            "and moments are of different pictures or networks"
        )
    return "\n".join(lines)


def is_reference(path: str | Path) -> bool:
    """Return whether a name is that of a reference batch."""
    return Path(path).suffix.lower() == ".npz"


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError for arrays that need far more memory than pictures in a file of this size can hold."""
    claimed = 0
    for member in archive.infolist():
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        claimed += max(member.file_size, math.prod(shape) * dtype.itemsize)
    if claimed > MOST_TIMES * size:
        raise ValueError(f"its arrays would take {claimed:,} bytes, and the file has {size:,}")


def _read(path: Path) -> tuple[ImageData, dict[str, tuple[Tensor, Tensor]]]:
    """Read the images and moments of a file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {str(path)!r}; give a reference batch of ADM's, as VIRTUAL_imagenet256_labeled.npz"
        )
    try:
        with np.load(path, allow_pickle=False) as held:
            if not isinstance(held, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            names = [name for pair in MOMENTS.values() for name in pair]
            _check_sizes(held.zip, path.stat().st_size)
            arrays: dict[str, Any] = {name: held[name] for name in (IMAGES, *names) if name in held}
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a damaged file
        raise ValueError(f"{path} is truncated or no .npz of arrays ({error}); copy it again") from None
    pixels = arrays.get(IMAGES)
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        what = "nothing" if pixels is None else f"{pixels.dtype} {pixels.shape}"
        raise ValueError(
            f"{path} has {what} under {IMAGES}; give a reference batch with uint8 images (n, h, w, 3) there"
        )
    for name in set(arrays) - {IMAGES}:
        if arrays[name].dtype.kind != "f" or arrays[name].ndim != 1 + name.startswith("sigma"):
            raise ValueError(
                f"{path} has {arrays[name].dtype} {arrays[name].shape} as {name}, which is no mean or covariance"
            )
    given = {
        layer: tuple(torch.from_numpy(arrays[name]).double() for name in pair)
        for layer, pair in MOMENTS.items()
        if all(name in arrays for name in pair)
    }
    if bad := [layer for layer, pair in given.items() if not all(bool(values.isfinite().all()) for values in pair)]:
        raise ValueError(f"{path} has NaN or infinity among its {bad[0]} moments; copy it again")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    labels = torch.zeros(len(images), dtype=torch.int64)
    return ImageData(images, labels, ("any",), path.stem, "reference"), given
