"""Latents of a frozen autoencoder: encoding, decoding, and the latents of whole data sets on disk."""

from labcore.latents.codec import Autoencoder, Codec, Pixels, load
from labcore.latents.data import LatentData
from labcore.latents.decoding import codec_of, pixel_shape, seen_by, square_pixels, to_pixels
from labcore.latents.store import cached_raw

__all__ = [
    "Autoencoder",
    "Codec",
    "LatentData",
    "Pixels",
    "cached_raw",
    "codec_of",
    "load",
    "pixel_shape",
    "seen_by",
    "square_pixels",
    "to_pixels",
]
