"""Images to tokens and back: non-overlapping patches in raster order, channel-major inside a token (c, row, column).

That is the order of torch's unfold, which ml-tarflow uses; a reshape gives the same without the copy into columns.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def patchify(x: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b t d"]:
    """(b, c, h, w) -> (b, t, d) with t = (h/p)(w/p) and d = c p^2."""
    b, c, h, w = x.shape
    rows = x.reshape(b, c, h // patch, patch, w // patch, patch)
    return rows.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // patch) * (w // patch), c * patch * patch)


def unpatchify(tokens: Float[Tensor, "b t d"], patch: int, shape: tuple[int, int, int]) -> Float[Tensor, "b c h w"]:
    """(b, t, d) -> (b, c, h, w) with shape = (c, h, w); the inverse of `patchify`."""
    channels, height, width = shape
    rows = tokens.reshape(tokens.shape[0], height // patch, width // patch, channels, patch, patch)
    return rows.permute(0, 3, 1, 4, 2, 5).reshape(tokens.shape[0], *shape)


def check_tokens(z: Tensor, tokens: int, token_dim: int, dtype: torch.dtype) -> None:
    """ValueError unless z is (b, tokens, token_dim) of a model's floating type."""
    if not z.is_floating_point() or z.ndim != 3 or z.shape[1:] != (tokens, token_dim):
        raise ValueError(
            f"z has shape {tuple(z.shape)} and dtype {z.dtype}; this model takes floating (b, {tokens}, {token_dim})"
        )
    if z.dtype != dtype:
        raise ValueError(f"z is {z.dtype} and the model is {dtype}; convert one, as in z.to(model.dtype)")
