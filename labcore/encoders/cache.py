"""Features of whole data sets, computed once and kept on disk; later runs with the same key map the file.

The key holds the data's fingerprint, the encoder's recipe with the hash of its weights, the version of its code, and whether
images are mirrored (`labcore.derived`). Sizes in float16: 320 channels x 49 tokens of 60,000 images are 1.9 GB; 1,280 channels
would be 7.5 GB.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from labcore.derived import Derived, derive
from labcore.encoders.frozen import ENCODER_VERSION, Encoder
from labcore.files import cache_folder
from labcore.progress import Progress
from labcore.reading import Images

CHUNK = 32
"""Images encoded at a time, and rows of one chunk of the store; our choice (see `Encoder` on the CPU)."""


def cached_tokens(
    encoder: Encoder,
    dataset: Images,
    grid: int,
    stage: int | None = None,
    flipped: bool = False,
    root: str | Path | None = None,
    dtype: str = "float16",
    limit: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Return `Encoder.tokens` of every image, (n, grid * grid, d), mapped from a file for reading; row i is image i.

    flipped: use the images mirrored left to right. root: folder of the stores; default features/ in the lab's cache
    folder. limit: number of images, evenly spread, as a separate store. Raises ValueError if features are not finite in
    `dtype`.
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
    return derive(tokens, dataset, _root(root), flipped, dtype, limit, progress)


def cached_pooled(
    encoder: Encoder,
    dataset: Images,
    flipped: bool = False,
    root: str | Path | None = None,
    dtype: str = "float16",
    limit: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Return `Encoder.pooled` of every image, (n, p); arguments as those of `cached_tokens`."""
    shape, name = (encoder.spec.pooled_width,), f"{encoder.spec.name}-pooled"
    pooled = Derived(name, encoder.pooled, shape, encoder.recipe(), CHUNK, ENCODER_VERSION, encoder.device)
    return derive(pooled, dataset, _root(root), flipped, dtype, limit, progress)


def _root(given: str | Path | None) -> Path:
    return cache_folder() / "features" if given is None else Path(given)
