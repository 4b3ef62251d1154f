"""Conversion of images to tokens and back: non-overlapping patches in raster order; a token's values are (c, row, column).

This is the order of torch's unfold, which ml-tarflow uses. A reshape gives the same values without unfold's extra copy.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def patchify(x: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b t d"]:
    """Cut images (b, c, h, w) into tokens (b, t, d) with t = (h/p)(w/p) and d = c p^2, for patches of p = `patch` pixels."""
    b, c, h, w = x.shape
    rows = x.reshape(b, c, h // patch, patch, w // patch, patch)
    return rows.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // patch) * (w // patch), c * patch * patch)


def unpatchify(tokens: Float[Tensor, "b t d"], patch: int, shape: tuple[int, int, int]) -> Float[Tensor, "b c h w"]:
    """Assemble tokens (b, t, d) to images (b, c, h, w) with shape = (c, h, w): the inverse of `patchify`."""
    channels, height, width = shape
    rows = tokens.reshape(tokens.shape[0], height // patch, width // patch, channels, patch, patch)
    return rows.permute(0, 3, 1, 4, 2, 5).reshape(tokens.shape[0], *shape)


def check_weights_format(dtype: torch.dtype) -> None:
    """Raise ValueError for weights of 16 bits, which are too inexact for log-determinants and states."""
    if dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"the model's weights are {name}; allowed are float32 and float64: convert them with model.float(), and compute "
            f"in {name} under torch.autocast(model.device.type, dtype={dtype})"
        )


def check_tokens(z: Tensor, tokens: int, token_dim: int, dtype: torch.dtype) -> None:
    """Raise ValueError unless z is a floating (b, tokens, token_dim) with the model's `dtype`, float32 or float64."""
    check_weights_format(dtype)
    if not z.is_floating_point() or z.ndim != 3 or z.shape[1:] != (tokens, token_dim):
        raise ValueError(
            f"z has shape {tuple(z.shape)} and dtype {z.dtype}; this model takes floating (b, {tokens}, {token_dim})"
        )
    if z.dtype != dtype:
        raise ValueError(f"z is {z.dtype} and the model is {dtype}; convert z, as in z.to(model.dtype)")
