"""Latents of a frozen autoencoder: images to latents and back, and latents of whole data sets on disk."""

from labcore.latents.codec import Autoencoder, Codec, Pixels, load
from labcore.latents.store import cached_raw

__all__ = ["Autoencoder", "Codec", "Pixels", "cached_raw", "load"]
