"""Features of whole data sets, computed once and kept on disk; later runs with the same key map the file.

The key holds the data's fingerprint, the encoder's recipe with the hash of its weights, and whether images are mirrored.
Sizes in float16: 320 channels x 49 tokens of 60,000 images are 1.9 GB; 1,280 channels would be 7.5 GB. Processes of one
launch share the work, and a run that was killed goes on where it was (`labcore.store`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from labcore.encoders.frozen import Encoder
from labcore.store import Progress, Rows, Store, cache_folder

CHUNK = 32
"""Images encoded at a time, and rows of one chunk of the store; our choice (see `Encoder` on the CPU)."""

DTYPES = {"float16": torch.float16, "float32": torch.float32}


@runtime_checkable
class Images(Protocol):
    """A data set with a fingerprint, whose batches are uint8 images (b, c, h, w) and labels."""

    name: str
    split: str

    def __len__(self) -> int: ...

    def fingerprint(self) -> str: ...

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]: ...


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
    """`Encoder.tokens` of every image, (n, grid * grid, d), mapped from a file; row i is image i. Meant for reading.

    flipped: of the images mirrored left to right. root: where stores live; default, features/ in the lab's cache folder.
    limit: the first images only, as a store of its own. Raises ValueError where features are not finite in `dtype`.
    """
    shape = (grid * grid, encoder.token_width(grid, stage))
    return _cached(
        encoder,
        dataset,
        "tokens",
        shape,
        lambda x: encoder.tokens(x, grid, stage),
        encoder.recipe(grid, stage),
        flipped,
        root,
        dtype,
        limit,
        progress,
    )


def cached_pooled(
    encoder: Encoder,
    dataset: Images,
    flipped: bool = False,
    root: str | Path | None = None,
    dtype: str = "float16",
    limit: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """`Encoder.pooled` of every image, (n, p); arguments as those of `cached_tokens`."""
    shape = (encoder.spec.pooled_width,)
    return _cached(
        encoder, dataset, "pooled", shape, encoder.pooled, encoder.recipe(), flipped, root, dtype, limit, progress
    )


def _cached(
    encoder: Encoder,
    dataset: Images,
    what: str,
    shape: tuple[int, ...],
    encode: Callable[[Tensor], Tensor],
    recipe: dict[str, Any],
    flipped: bool,
    root: str | Path | None,
    dtype: str,
    limit: int | None,
    progress: Progress | None,
) -> Tensor:
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; features are kept as {' or '.join(DTYPES)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: give 1 or more images, or None for all")
    rows = len(dataset) if limit is None else min(limit, len(dataset))
    data = {"name": dataset.name, "split": dataset.split, "fingerprint": dataset.fingerprint()}
    store = Store(
        cache_folder() / "features" if root is None else Path(root),
        f"{encoder.spec.name}-{what}",
        {"data": data, "flipped": flipped, **recipe},
        rows,
        {"features": Rows(shape, dtype)},
        CHUNK,
    )

    @torch.no_grad()
    def compute(part: range) -> dict[str, Tensor]:
        pixels, _ = dataset.__getitems__(list(part))
        x = pixels.float() / 127.5 - 1
        features = encode(x.flip(-1) if flipped else x).to(DTYPES[dtype])
        if not bool(features.isfinite().all()):
            bad = part[int((~features.isfinite()).flatten(1).any(1).nonzero()[0])]
            raise ValueError(
                f"{what} of {encoder!r} are not finite in {dtype}, first for image {bad} of {dataset.name} "
                f"{dataset.split}; use dtype='float32', or look at the image and the weights"
            )
        return {"features": features}

    return store.fill(compute, progress)["features"]
