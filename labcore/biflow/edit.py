"""Editing without training (BiFlow, section 4.5): an image's noise, changed or read with another class, and inverted again.

Both take the inverse as a function of z and classes, so that the learned and the exact one are edited alike:

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
    """Images of class y as they would be of class `new`: encoded with the one, decoded with the other. Not clipped.

    Raises ValueError for x that is not finite, and `labcore.finite.NotFinite` for such results.
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
    """Images with what is not `known` made anew (equation 6): its tokens of z are replaced by noise. Not clipped.

    known: True where a pixel stays. A token stays where all of its pixels do; the others are set to 0, mid-grey, before the
    image is encoded (our choice: the paper does not say what a masked image holds). Known pixels come out as the inverse
    gives them back. Raises ValueError for a mask of another shape and for x that is not finite, where it is not known either,
    and `labcore.finite.NotFinite` for such results.
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
    """z of images with the noise that the flow was trained on; image i's is a function of seed and i."""
    eps = normal_per_item(seed, "editing", range(len(x)), tuple(x.shape[1:])).to(x)
    return flow(x + flow.config.noise_std * eps, y).z


def _checked(images: Float[Tensor, "b c h w"], call: str) -> Float[Tensor, "b c h w"]:
    check_result(
        images, call, advice="the inverse left the range of what it has seen; try less guidance, or another class"
    )
    return images


def known_tokens(
    flow: TarFlow, x: Float[Tensor, "b c h w"], known: Bool[Tensor, "h w"] | Bool[Tensor, "b h w"]
) -> Bool[Tensor, "b t"]:
    """Which tokens are known: those all of whose pixels are. ValueError for a mask of another shape or type."""
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
