"""What is computed of every image of a data set, kept in a store: features of an encoder, latents of an autoencoder.

The key holds the data's fingerprint, whether images are mirrored, the recipe of what is computed, and versions of the code.
Processes of one launch share the work, and a run that was killed goes on where it was (`labcore.store`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labcore.progress import Progress
from labcore.reading import Images, parts_of
from labcore.spread import spread, spread_rows
from labcore.store import Rows, Store, is_there

DTYPES = {"float16": torch.float16, "float32": torch.float32}


class Derived(NamedTuple):
    """What is computed of an image: its name, the function of float images in [-1, 1], the shape of a row, and the recipe,
    JSON values that say what the function is. chunk: images at a time, and rows of one chunk of the store. version: of the
    function's code, a part of the key. device: where the function takes images."""

    name: str
    compute: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    recipe: dict[str, Any]
    chunk: int
    version: int
    device: torch.device | str = "cpu"


def known_as(dataset: Images, is_kept: Callable[[str], bool]) -> str:
    """The fingerprint under which something of a data set is kept: its own, or where only that is kept, its former one.

    Data sets of folders have a former one, `named_fingerprint`, which says as much of their contents.
    """
    own = dataset.fingerprint()
    if is_kept(own):
        return own
    former = dataset.named_fingerprint()
    return former if former is not None and is_kept(former) else own


def store_of(
    dataset: Images,
    root: Path,
    name: str,
    key: Callable[[str], dict[str, Any]],
    arrays: dict[str, Rows],
    chunk: int,
) -> Store:
    """The store of what is computed of every item of a data set. key: of the store, for a fingerprint of the data set.

    A store that was made under the former fingerprint is used (`known_as`). Raises as `Store`.
    """
    layout = (len(dataset), arrays, chunk)
    known = known_as(dataset, lambda fingerprint: is_there(root, name, key(fingerprint), *layout))
    return Store(root, name, key(known), *layout)


def derive(
    what: Derived,
    dataset: Images,
    root: Path,
    flipped: bool = False,
    dtype: str = "float16",
    limit: int | None = None,
    progress: Progress | None = None,
    num_workers: int | None = None,
) -> Tensor:
    """Every image's row, (n, *shape), mapped from a file; row i is image i. Meant for reading.

    dataset: of uint8 images (c, h, w). flipped: of the images mirrored left to right. limit: so many images, evenly spread,
    as a store of its own. num_workers: processes that read and decode the images; None for `labcore.reading.readers`.
    Raises ValueError where values are not finite in `dtype`, OSError at once where the disk has no room for all rows.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; {what.name} are kept as {' or '.join(DTYPES)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: give 1 or more images, or None for all")
    rows = spread_rows(len(dataset), limit)
    dataset = spread(dataset, limit)

    def key(fingerprint: str) -> dict[str, Any]:
        data = {"name": dataset.name, "split": dataset.split, "fingerprint": fingerprint}
        return {"data": data, "flipped": flipped, "version": what.version, "input": INPUT_VERSION, **what.recipe}

    store = store_of(dataset, root, what.name, key, {"features": Rows(what.shape, dtype)}, what.chunk)

    def compute(parts: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        for part, (pixels, _) in zip(parts, parts_of(dataset, parts, what.device, num_workers), strict=True):
            found = _computed(what, pixels, flipped).to(DTYPES[dtype])
            if not bool(found.isfinite().all()):
                bad = rows[part[int((~found.isfinite()).flatten(1).any(1).nonzero()[0])]]
                raise ValueError(
                    f"{what.name} are not finite in {dtype}, first for image {bad} of {dataset.name} {dataset.split}; "
                    "use dtype='float32', or look at the image and the weights"
                )
            yield {"features": found}

    return store.fill_in_turn(compute, progress)["features"]


INPUT_VERSION = 1
"""Version of how `_computed` makes input of uint8 images; raise it with every change of its values."""


@torch.no_grad()
def _computed(what: Derived, pixels: Tensor, flipped: bool) -> Tensor:
    """What is computed of uint8 images."""
    x = pixels.float() / 127.5 - 1
    return what.compute(x.flip(-1) if flipped else x)
