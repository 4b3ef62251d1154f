"""Maps from noise to images: the exact inverse, score denoising, and sampling."""

from labcore.inverse.denoise import denoise
from labcore.inverse.sample import sample
from labcore.inverse.solve import invert

__all__ = ["denoise", "invert", "sample"]
