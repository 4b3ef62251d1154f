"""Values computed from every image of a data set and kept in a store: features of an encoder, latents of an autoencoder.

The key has the data's fingerprint, whether images are mirrored, the recipe of the computation, and versions of the code.
Processes of one launch share the work, and a killed run continues where it was (`labcore.store`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labcore.progress import Progress
from labcore.reading import Images, parts_of
from labcore.store import Rows, Store, is_there

DTYPES = {"float16": torch.float16, "float32": torch.float32}


class Derived(NamedTuple):
    """A computation on images.

    Attributes:
        name: name of the values.
        compute: function of float images (b, c, h, w) in [-1, 1].
        shape: shape of the values of one image, a row of the store.
        recipe: JSON values that identify the function.
        chunk: images at a time, and rows of one chunk of the store.
        version: version of the function's code, a part of the key.
        device: device of the function's images.
    """

    name: str
    compute: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    recipe: dict[str, Any]
    chunk: int
    version: int
    device: torch.device | str = "cpu"


def known_as(dataset: Images, is_kept: Callable[[str], bool]) -> str:
    """Return the fingerprint under which values of a data set are kept: today's, or the earlier one if only that is found.

    Data sets of folders have an earlier one, `named_fingerprint`, which depends on the contents as well.
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
    """Return the store of values that are computed from every item of a data set.

    key: function from a fingerprint of the data set to the store's key. A store that was made under the earlier fingerprint is
    used (`known_as`). Raises as `Store`.
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
    progress: Progress | None = None,
    num_workers: int | None = None,
) -> Tensor:
    """Return the values of every image, (n, *shape), mapped from a file for reading; row i is image i.

    Args:
        what: the computation.
        dataset: uint8 images (c, h, w).
        root: folder of the stores.
        flipped: use the images mirrored left to right; default False.
        dtype: number format of the store; default "float16".
        progress: called as chunks complete; default None.
        num_workers: processes that read and decode the images; default None, `labcore.reading.readers`.

    Raises:
        ValueError: values are not finite in `dtype`.
        OSError: at once, if the disk has no room for all rows.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; {what.name} are kept as {' or '.join(DTYPES)}")

    def key(fingerprint: str) -> dict[str, Any]:
        data = {"name": dataset.name, "split": dataset.split, "fingerprint": fingerprint}
        return {"data": data, "flipped": flipped, "version": what.version, "input": INPUT_VERSION, **what.recipe}

    store = store_of(dataset, root, what.name, key, {"features": Rows(what.shape, dtype)}, what.chunk)

    def compute(parts: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        for part, (pixels, _) in zip(parts, parts_of(dataset, parts, what.device, num_workers), strict=True):
            found = _computed(what, pixels, flipped).to(DTYPES[dtype])
            if not bool(found.isfinite().all()):
                bad = part[int((~found.isfinite()).flatten(1).any(1).nonzero()[0])]
                raise ValueError(
                    f"{what.name} are not finite in {dtype}, first for image {bad} of {dataset.name} {dataset.split}; "
                    "give dtype='float32', or check the image and the weights"
                )
            yield {"features": found}

    return store.fill_in_turn(compute, progress)["features"]


INPUT_VERSION = 1
"""Version of the conversion of uint8 images in `_computed`; raise it with every change of its values."""


@torch.no_grad()
def _computed(what: Derived, pixels: Tensor, flipped: bool) -> Tensor:
    """Return the values of uint8 images."""
    x = pixels.float() / 127.5 - 1
    return what.compute(x.flip(-1) if flipped else x)
