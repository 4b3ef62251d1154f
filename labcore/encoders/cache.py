"""Features of whole data sets, computed once and stored on disk; later runs with the same key map the file.

The key includes the data's fingerprint, the encoder's recipe with the hash of its weights, the version of its code, and
whether images are mirrored (`labcore.derived`). In float16, 320 channels x 49 tokens of 60,000 images take 1.9 GB; 1,280
channels would take 7.5 GB.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from labcore.derived import Derived, derive
from labcore.encoders.frozen import ENCODER_VERSION, Encoder
from labcore.files import cache_folder
from labcore.progress import Progress
from labcore.reading import Images
from labcore.spread import check_limit, spread

CHUNK = 32
"""Number of images that are encoded at a time, and rows of one chunk of the store; our choice (see `Encoder` on the CPU)."""


def cached_tokens(
    encoder: Encoder,
    dataset: Images,
    grid: int,
    stage: int | None = None,
    flipped: bool = False,
    root: str | Path | None = None,
    dtype: str = "float16",
    progress: Progress | None = None,
) -> Tensor:
    """Return `Encoder.tokens` of every image, (n, grid * grid, d), mapped read-only from a file; row i is image i.

    Args:
        encoder: the encoder.
        dataset: the images.
        grid: as in `Encoder.tokens`.
        stage: as in `Encoder.tokens`.
        flipped: use the images mirrored left to right; default False.
        root: folder of the stores; default features/ in the lab's cache folder.
        dtype: number format of the store; default "float16".
        progress: called while images are encoded; default None.

    Raises:
        ValueError: features are not finite in `dtype`, or grid or stage do not fit the encoder.
    """
    tokens = Derived(
        f"{encoder.spec.name}-tokens",
        lambda x: encoder.tokens(x, grid, stage),
        (grid * grid, encoder.token_width(grid, stage)),
        encoder.recipe(grid, stage),
        CHUNK,
        ENCODER_VERSION,
        encoder.device,
    )
    return derive(tokens, dataset, _root(root), flipped, dtype, progress)


def cached_pooled(
    encoder: Encoder,
    dataset: Images,
    flipped: bool = False,
    root: str | Path | None = None,
    dtype: str = "float16",
    limit: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Return `Encoder.pooled` of every image, (n, p); arguments as those of `cached_tokens`.

    limit: number of images, evenly spread, with a store of their own; default None, all. Raises ValueError if it is below 1.
    """
    check_limit(limit)
    shape, name = (encoder.spec.pooled_width,), f"{encoder.spec.name}-pooled"
    pooled = Derived(name, encoder.pooled, shape, encoder.recipe(), CHUNK, ENCODER_VERSION, encoder.device)
    return derive(pooled, spread(dataset, limit), _root(root), flipped, dtype, progress)


def _root(given: str | Path | None) -> Path:
    return cache_folder() / "features" if given is None else Path(given)
