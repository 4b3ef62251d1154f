"""Editing without training (BiFlow, section 4.5): encode an image, change its noise or its class, and invert.

Both functions take the inverse as a function of z and classes, so the learned and the exact inverse edit in the same way:

    learned = lambda z, y: backward(z, y).x
    exact = lambda z, y: denoise(flow, invert(flow, z, y).x, y)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from labcore.finite import check_result, require_finite
from labcore.flows.tarflow import TarFlow
from labcore.nn.patch import patchify
from labcore.rng import normal_per_item

Inverse = Callable[[Tensor, Tensor | None], Tensor]
"""(z (b, t, d), y (b,) or None) -> images (b, c, h, w)."""


@torch.no_grad()
def change_class(
    flow: TarFlow,
    inverse: Inverse,
    x: Float[Tensor, "b c h w"],
    y: Int64[Tensor, " b"] | None,
    new: Int64[Tensor, " b"] | None,
    seed: int = 0,
) -> Float[Tensor, "b c h w"]:
    """Encode images with class y and decode them with class `new`. The result is not clipped.

    Args:
        flow: the flow that encodes.
        inverse: function of z (b, t, d) and classes (b,) that returns images, as in the module's examples.
        x: images (b, c, h, w) in [-1, 1].
        y: classes (b,) of the images, or None.
        new: classes (b,) to decode with, or None.
        seed: random seed of the noise that is added before encoding; default 0.

    Raises:
        ValueError: x is not finite.
        NotFinite: the result is not finite.
    """
    require_finite(x, "x", "give images in [-1, 1]")
    return _checked(inverse(encode(flow, x, y, seed), new), "change_class")


@torch.no_grad()
def inpaint(
    flow: TarFlow,
    inverse: Inverse,
    x: Float[Tensor, "b c h w"],
    known: Bool[Tensor, "h w"] | Bool[Tensor, "b h w"],
    y: Int64[Tensor, " b"] | None = None,
    seed: int = 0,
) -> Float[Tensor, "b c h w"]:
    """Draw new unknown parts of images (equation 6), by replacing their tokens of z by noise. The result is not clipped.

    A token stays if all of its pixels are known. The pixels of all other tokens are set to 0, mid-grey, before the image
    is encoded (our choice: the paper does not say what a masked image holds). Known pixels are returned as the inverse
    reconstructs them.

    Args:
        flow: the flow that encodes.
        inverse: function of z (b, t, d) and classes (b,) that returns images, as in the module's examples.
        x: images (b, c, h, w) in [-1, 1], finite also where they are unknown.
        known: bool (h, w) or (b, h, w); True marks a known pixel.
        y: classes (b,), or None (default).
        seed: random seed of all noise; default 0.

    Raises:
        ValueError: the mask has another shape or dtype, or x is not finite.
        NotFinite: the result is not finite.
    """
    require_finite(x, "x", "give images in [-1, 1], with any number, 0 for example, where they are not known")
    keep = known_tokens(flow, x, known)
    masked = torch.where(_pixels(flow, keep), x, torch.zeros_like(x))
    z = encode(flow, masked, y, seed)
    fresh = normal_per_item(seed, "inpainting", range(len(x)), tuple(z.shape[1:])).to(z) * flow.prior_var.sqrt()
    return _checked(inverse(torch.where(keep[..., None], z, fresh), y), "inpaint")


def encode(
    flow: TarFlow, x: Float[Tensor, "b c h w"], y: Int64[Tensor, " b"] | None, seed: int
) -> Float[Tensor, "b t d"]:
    """Return z of images with the noise of the flow's training; image i's noise depends only on seed and i."""
    eps = normal_per_item(seed, "editing", range(len(x)), tuple(x.shape[1:])).to(x)
    return flow(x + flow.config.noise_std * eps, y).z


def _checked(images: Float[Tensor, "b c h w"], call: str) -> Float[Tensor, "b c h w"]:
    check_result(images, call, advice="the inverse left the range of its training; try less guidance, or another class")
    return images


def known_tokens(
    flow: TarFlow, x: Float[Tensor, "b c h w"], known: Bool[Tensor, "h w"] | Bool[Tensor, "b h w"]
) -> Bool[Tensor, "b t"]:
    """Return which tokens are known, i.e. have only known pixels; ValueError for a mask of another shape or dtype."""
    if known.dtype != torch.bool or tuple(known.shape) not in {tuple(x.shape[-2:]), (len(x), *x.shape[-2:])}:
        raise ValueError(
            f"the mask is {known.dtype} of shape {tuple(known.shape)}; give bool, True where a pixel is known, of shape "
            f"{tuple(x.shape[-2:])} or {(len(x), *x.shape[-2:])}"
        )
    every = known.to(x.device).expand(len(x), *x.shape[-2:])[:, None].float()
    return patchify(every, flow.config.patch_size).amin(-1) == 1


def _pixels(flow: TarFlow, tokens: Bool[Tensor, "b t"]) -> Bool[Tensor, "b 1 h w"]:
    p = flow.config.patch_size
    return tokens.view(-1, 1, *flow.config.rows_columns).repeat_interleave(p, -1).repeat_interleave(p, -2)
