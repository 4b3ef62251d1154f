"""Raw latents of whole data sets, encoded once and stored on disk (`labcore.derived`); later runs map the same file.

The key includes the data's fingerprint (with size and crop), the autoencoder's class, the hash of its weights, the version of
the code, and whether images are mirrored. Mirrored images have a store of their own, because the latents of a mirrored image
are not exactly the mirrored latents. In float16 the 1,281,167 images of ImageNet take 21 GB at 8 x 32 x 32 (means and standard
deviations), and twice that with mirrored images.
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
"""Number of images that are encoded at a time, and rows of one chunk of the store; our choice."""


def cached_raw(
    codec: Codec,
    dataset: Images,
    image_size: int,
    flipped: bool = False,
    root: str | Path | None = None,
    dtype: str = "float16",
    progress: Progress | None = None,
) -> Tensor:
    """Return the raw latents of every image, (n, r, h, w), mapped from a file; row i is image i.

    Args:
        codec: the encoder.
        dataset: the images.
        image_size: side of the images in pixels.
        flipped: use mirrored images; default False.
        root: folder of the stores; default latents/ in the lab's cache folder.
        dtype: number format of the store; default "float16".
        progress: called while images are encoded; default None.

    Raises:
        ValueError: latents are not finite in `dtype`; see `labcore.derived`.
    """
    side = image_size // codec.factor
    shape, device = (codec.raw_channels, side, side), getattr(codec, "device", "cpu")
    latents = Derived(f"{codec.name}-latents", codec.raw, shape, codec.recipe(), CHUNK, LATENT_VERSION, device)
    place = cache_folder() / "latents" if root is None else Path(root)
    return derive(latents, dataset, place, flipped, dtype, progress)
