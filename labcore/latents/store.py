"""Raw latents of whole data sets, encoded once and kept on disk (`labcore.derived`); later runs with the same key map the file.

The key holds the data's fingerprint, which knows size and crop, the autoencoder's class, the hash of its weights, the version
of the code, and whether images are mirrored: an autoencoder does not mirror latents exactly, so mirrored images have rows of
their own. In float16 the 1,281,167 images of ImageNet take 21 GB at 8 x 32 x 32 (means and deviations), twice that with
mirrored ones.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from labcore.derived import Derived, derive
from labcore.files import cache_folder
from labcore.latents.codec import LATENT_VERSION, Codec
from labcore.progress import Progress
from labcore.reading import Images

CHUNK = 16
"""Images encoded at a time, and rows of one chunk of the store; our choice."""


def cached_raw(
    codec: Codec,
    dataset: Images,
    image_size: int,
    flipped: bool = False,
    root: str | Path | None = None,
    dtype: str = "float16",
    limit: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Raw latents of every image of `image_size` pixels, (n, r, h, w), mapped from a file; row i is image i.

    root: where stores live; default, latents/ in the lab's cache folder. Other arguments and errors as `labcore.derived`.
    """
    side = image_size // codec.factor
    shape, device = (codec.raw_channels, side, side), getattr(codec, "device", "cpu")
    latents = Derived(f"{codec.name}-latents", codec.raw, shape, codec.recipe(), CHUNK, LATENT_VERSION, device)
    return derive(
        latents, dataset, cache_folder() / "latents" if root is None else Path(root), flipped, dtype, limit, progress
    )
