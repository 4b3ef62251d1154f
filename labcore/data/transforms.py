"""Conversion of pixels: range [-1, 1] and back, mirroring, uniform dequantisation, bits/dim, and picture files.

Training makes images continuous in one of two ways (TARFlow, noise augmented training; ml-tarflow train.py):

- Gaussian: x = 2 p / 255 - 1, then x + noise_std * eps. The flow models the density of noisy images.
- uniform:  x = 2 (p + u) / 256 - 1 with u ~ U[0, 1). Each of the 256 values fills its bin of width 2/256, so the density
  integrates to a probability of the pixels, and bits/dim are defined.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from labcore.finite import require_finite
from labcore.rng import StepNoise

NATS_PER_BIN = math.log(128)
"""-ln(bin width 2/256), in nats: a change of scale from [-1, 1) to [0, 256) adds this to a value's negative log-likelihood."""


def to_float(pixels: UInt8[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """Convert uint8 0..255 to float32 in [-1, 1]. Raises ValueError for another dtype."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels have dtype {pixels.dtype}; to_float takes uint8 0..255")
    return pixels.float() / 127.5 - 1


def to_uint8(x: Float[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b c h w"]:
    """Clip to [-1, 1], and convert to uint8 0..255 by rounding. Raises ValueError for NaN and infinity."""
    require_finite(x if x.ndim > 3 else x[None], "x", "these are no images; check what made them")
    return (x.clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)


def tile(x: Float[Tensor, "b c h w"], columns: int, gap: int = 2) -> UInt8[Tensor, "rows cols c"]:
    """Arrange images in [-1, 1] row by row on one uint8 picture (rows, cols, c), with white lines of `gap` pixels between.

    columns: images in a row. Raises ValueError if there are no images.
    """
    b, c, h, w = x.shape
    if not b:
        raise ValueError("there are no images for a picture; give at least one")
    rows = -(-b // columns)
    sheet = torch.full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(to_uint8(x).cpu()):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    return sheet.permute(1, 2, 0)


def save_png(sheet: UInt8[Tensor, "rows cols c"], path: str | Path, scale: int = 1) -> None:
    """Write a picture of `tile` as a PNG, grey or RGB, with each pixel enlarged to scale x scale; create a missing folder.

    Raises ValueError for another dtype than uint8.
    """
    from PIL import Image

    if sheet.dtype != torch.uint8:
        raise ValueError(
            f"the picture has dtype {sheet.dtype}; save_png takes uint8 0..255, as tile and to_uint8 make it"
        )

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = sheet.repeat_interleave(scale, 0).repeat_interleave(scale, 1).squeeze(-1).contiguous().numpy()
    Image.fromarray(pixels).save(path)


def flip(x: Float[Tensor, "b c h w"], noise: StepNoise) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
    """Mirror each image left to right with probability 1/2; return the images, and which were mirrored (b,)."""
    mirrored = noise.uniform("flip") < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x), mirrored


def to_model_input(
    items: UInt8[Tensor, "b c h w"], noise: StepNoise, mirror: bool = False
) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
    """Convert the uint8 images of a training step to [-1, 1]; return them, and which were mirrored (b,).

    mirror: True mirrors each with probability 1/2; default False.
    """
    x = to_float(items)
    return flip(x, noise) if mirror else (x, torch.zeros(len(x), dtype=torch.bool, device=x.device))


def dequantize(x: Float[Tensor, "b c h w"], u: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Convert images of `to_float` to 2 (p + u) / 256 - 1, in [-1, 1), with the pixels p and u ~ U[0, 1)."""
    return (((x + 1) * 127.5).round() + u) / 128 - 1


def quantize(x: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """Return the pixels of dequantised images, floor((x + 1) 128): the inverse of `dequantize` for every u.

    Raises as `to_uint8`.
    """
    require_finite(x, "x", "these are no images; check what made them")
    return ((x + 1) * 128).floor().clamp(0, 255).to(torch.uint8)


def bits_per_dim(nats_per_dim: float) -> float:
    """Convert nats/dim of dequantised images in [-1, 1) to bits/dim of pixels 0..255: (nats + ln 128) / ln 2."""
    return (nats_per_dim + NATS_PER_BIN) / math.log(2)
