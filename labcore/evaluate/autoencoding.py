"""Losses of an autoencoder: errors of its reconstructions, and their spatial frequencies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.latents.codec import Codec


class Kept(NamedTuple):
    """Images and their reconstructions. back: pixels in [-1, 1], clipped. psnr: of each image, in dB.

    raw: raw latents; final: the latents that a flow learns, at their mean.
    """

    back: Float[Tensor, "b k H W"]
    raw: Float[Tensor, "b r h w"]
    final: Float[Tensor, "b c h w"]
    psnr: Float[Tensor, " b"]


class Spectrum(NamedTuple):
    """Mean power by frequency, of the images and of the autoencoder's error; cycles: frequencies, per image side."""

    cycles: Float[Tensor, " f"]
    images: Float[Tensor, " f"]
    lost: Float[Tensor, " f"]


@torch.no_grad()
def keep(codec: Codec, x: Float[Tensor, "b k H W"], chunk: int = 64) -> Kept:
    """Reconstruct images in [-1, 1] with `codec` from the mean of their latents; errors as of the codec."""
    raw = torch.cat([codec.raw(part).to(x.device) for part in x.split(chunk)])
    final = codec.final(raw)
    back = codec.decode(final, chunk).clamp(-1, 1).to(x.device)
    return Kept(back, raw, final, psnr(x, back))


def psnr(x: Float[Tensor, "b k H W"], other: Float[Tensor, "b k H W"]) -> Float[Tensor, " b"]:
    """Return the peak signal-to-noise ratio of each image in dB: 10 log10(2^2 / mean squared error), for values in [-1, 1]."""
    return 10 * (4 / (x - other).square().mean((1, 2, 3)).clamp_min(1e-12)).log10()


def spectrum(x: Float[Tensor, "b k H W"], other: Float[Tensor, "b k H W"]) -> Spectrum:
    """Return the power of images, and of their difference from others, averaged over rings of spatial frequency.

    Rings reach up to half a cycle per pixel. Raises ValueError for images that are not square.
    """
    side = x.shape[-1]
    if x.shape[-2] != side or x.shape != other.shape:
        raise ValueError(f"images are {tuple(x.shape)} and {tuple(other.shape)}; give square ones of one shape")
    along = torch.fft.fftfreq(side, 1 / side, device=x.device)
    ring = (along[:, None].square() + along.square()).sqrt().round().long().flatten()
    rings = side // 2 + 1
    inside = ring < rings  # corners of the spectrum lie beyond the largest ring
    count = torch.bincount(ring[inside], minlength=rings)

    def power(images: Tensor) -> Tensor:
        centred = images.double() - images.double().mean((2, 3), keepdim=True)
        mean_power = torch.fft.fft2(centred, norm="ortho").abs().square().mean((0, 1)).flatten()
        return torch.bincount(ring[inside], mean_power[inside], minlength=rings) / count

    return Spectrum(torch.arange(rings), power(x), power(other - x))
