"""Conversion between pictures and a model's images, by the autoencoder that its configuration names; identity for pixels."""

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
    """Return the codec of a model; recently used autoencoders stay in memory. Raises as `labcore.latents.load`."""
    return Pixels(config.channels) if config.codec is None else _read(config.codec)


def pixel_shape(config: TokensConfig) -> tuple[int, int, int]:
    """Return (channels, height, width) of a model's pictures, in pixels. Raises as `codec_of`."""
    codec, (_, height, width) = codec_of(config), config.image_shape
    channels = codec.image_channels if isinstance(codec, Autoencoder) else codec.channels
    return channels, height * codec.factor, width * codec.factor


def square_pixels(config: TokensConfig) -> dict[str, int]:
    """Return {"image_size": ..., "channels": ...} of a model's pictures, for `labcore.data.datasets.load`.

    Raises ValueError for pictures that are not square.
    """
    return dict(image_size=config.side * codec_of(config).factor, channels=pixel_shape(config)[0])


def seen_by(
    config: TokensConfig,
    images: Dataset,
    device: torch.device | str = "cpu",
    mirror: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Return the data set that a model takes: the images themselves, or their `LatentData` for a model of latents.

    Args:
        config: configuration of the model.
        images: the data set of pictures.
        device: where images are encoded if their latents are not on disk; default the CPU.
        mirror: encode mirrored images too, for training; default False.
        progress: called while images are encoded; default None.

    Raises:
        ValueError: channels or latents do not fit the model; also as `codec_of`.
        FileNotFoundError: as `codec_of`.
    """
    if config.codec is None:
        return images
    codec = codec_of(config)
    model_channels = pixel_shape(config)[0]
    if images.channels != model_channels:
        raise ValueError(
            f"the {images.name} images have {images.channels} channels; {codec.name} takes {model_channels}: set data.channels"
        )
    check_fits(codec, images.image_size, config.image_shape)
    return LatentData(codec.to(device) if isinstance(codec, Autoencoder) else codec, images, mirror, None, progress)


@torch.no_grad()
def to_pixels(model: Any, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k H W"]:
    """Decode images that `model` made to pictures (b, k, H, W) in about [-1, 1], not clipped, on their device.

    Raises as `codec_of`, and NotFinite for pictures that are not finite.
    """
    pictures = codec_of(model.config).decode(x)
    check_result(pictures, "the decoded pictures", advice=DECODED)
    return pictures


@lru_cache(2)
def _read(source: str) -> Codec:
    return load(source)
