"""Pixels and what training adds to them: ranges, flips, Gaussian noise, uniform dequantisation, and the bits/dim constant.

Two ways to make images continuous (TARFlow, noise augmented training; ml-tarflow train.py):

- Gaussian: x = 2 p / 255 - 1, then x + noise_std * eps. The flow models the density of noised images.
- uniform:  x = 2 (p + u) / 256 - 1 with u ~ U[0, 1). Each of the 256 values fills its bin of width 2/256, so the density
  integrates to a probability of the pixels, and bits/dim mean something.
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
"""-ln(bin width 2/256): what the scale [-1, 1) adds to the negative log-likelihood of one value in [0, 256)."""


def to_float(pixels: UInt8[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """uint8 0..255 to float32 in [-1, 1]."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels have dtype {pixels.dtype}; to_float takes uint8 0..255")
    return pixels.float() / 127.5 - 1


def to_uint8(x: Float[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b c h w"]:
    """[-1, 1] to uint8 0..255: clipped and rounded. ValueError for NaN and infinity, which no number stands for."""
    require_finite(x if x.ndim > 3 else x[None], "x", "these are no images; check what made them")
    return (x.clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)


def tile(x: Float[Tensor, "b c h w"], columns: int, gap: int = 2) -> UInt8[Tensor, "rows cols c"]:
    """One picture (rows, cols, c) of images in [-1, 1], filled row by row, with white lines of `gap` pixels between."""
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
    """Write a picture of `tile`, grey or RGB, each pixel `scale` pixels wide; the folder is made if missing.

    ValueError for another type than uint8.
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
    """Mirror each image left to right with probability 1/2; also says which were."""
    mirrored = noise.uniform("flip") < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x), mirrored


def to_model_input(
    items: UInt8[Tensor, "b c h w"], noise: StepNoise, mirror: bool = False
) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
    """Images of a training step in [-1, 1], each mirrored with probability 1/2 where `mirror` is; also says which were."""
    x = to_float(items)
    return flip(x, noise) if mirror else (x, torch.zeros(len(x), dtype=torch.bool, device=x.device))


def dequantize(x: Float[Tensor, "b c h w"], u: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Images of `to_float` to 2 (p + u) / 256 - 1 in [-1, 1), with u ~ U[0, 1)."""
    return (((x + 1) * 127.5).round() + u) / 128 - 1


def quantize(x: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """The pixels under dequantised images: floor((x + 1) 128), the inverse of `dequantize` for every u.

    Raises as `to_uint8`.
    """
    require_finite(x, "x", "these are no images; check what made them")
    return ((x + 1) * 128).floor().clamp(0, 255).to(torch.uint8)


def bits_per_dim(nats_per_dim: float) -> float:
    """Bits/dim of pixels 0..255 from the nats/dim of dequantised images in [-1, 1): (nats + ln 128) / ln 2."""
    return (nats_per_dim + NATS_PER_BIN) / math.log(2)
