"""Between pictures and what a model sees of them, through the autoencoder that its configuration names, or as they are."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.config import TokensConfig
from labcore.data.protocol import Dataset
from labcore.finite import check_result
from labcore.latents.codec import DECODED, Autoencoder, Codec, Pixels, check_fits, load
from labcore.latents.data import LatentData
from labcore.progress import Progress


def codec_of(config: TokensConfig) -> Codec:
    """The codec of a model; an autoencoder is read once. Raises as `labcore.latents.load`."""
    return Pixels(config.channels) if config.codec is None else _read(config.codec)


def pixel_shape(config: TokensConfig) -> tuple[int, int, int]:
    """(channels, height, width) of the pictures that a model makes. Raises as `codec_of`."""
    codec, (_, height, width) = codec_of(config), config.image_shape
    channels = codec.image_channels if isinstance(codec, Autoencoder) else codec.channels
    return channels, height * codec.factor, width * codec.factor


def square_pixels(config: TokensConfig) -> dict[str, int]:
    """image_size and channels of a model's pictures, by `load`'s names. ValueError for pictures that are not square."""
    return dict(image_size=config.side * codec_of(config).factor, channels=pixel_shape(config)[0])


def seen_by(
    config: TokensConfig,
    images: Dataset,
    device: torch.device | str = "cpu",
    mirror: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """A data set of images as a model sees it: as it is, or as `LatentData`, encoded on `device` where it is not on disk.

    mirror: mirrored images too, for training. Raises as `codec_of`, and ValueError where the latents do not fit the model.
    """
    if config.codec is None:
        return images
    codec = codec_of(config)
    model_channels = pixel_shape(config)[0]
    if images.channels != model_channels:
        raise ValueError(
            f"the {images.name} images have {images.channels} channels, {codec.name} takes {model_channels}; set data.channels"
        )
    check_fits(codec, images.image_size, config.image_shape)
    return LatentData(codec.to(device) if isinstance(codec, Autoencoder) else codec, images, mirror, None, progress)


@torch.no_grad()
def to_pixels(model: Any, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k H W"]:
    """Pictures in about [-1, 1], not clipped, of images that `model` made, on their device.

    Raises as `codec_of`, and `labcore.finite.NotFinite` for pictures that are not finite.
    """
    pictures = codec_of(model.config).decode(x)
    check_result(pictures, "the decoded pictures", advice=DECODED)
    return pictures


@lru_cache(2)
def _read(source: str) -> Codec:
    return load(source)
