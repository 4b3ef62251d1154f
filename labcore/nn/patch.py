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


def check_weights_format(dtype: torch.dtype) -> None:
    """ValueError for a model whose weights were converted to 16 bits: log-determinants and states need more."""
    if dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"the model's weights are {name}; allowed are float32 and float64: convert them with model.float(), and compute "
            f"in {name} under torch.autocast(model.device.type, dtype={dtype})"
        )


def check_tokens(z: Tensor, tokens: int, token_dim: int, dtype: torch.dtype) -> None:
    """ValueError unless z is (b, tokens, token_dim) of a model's floating type, which has 32 bits or more."""
    check_weights_format(dtype)
    if not z.is_floating_point() or z.ndim != 3 or z.shape[1:] != (tokens, token_dim):
        raise ValueError(
            f"z has shape {tuple(z.shape)} and dtype {z.dtype}; this model takes floating (b, {tokens}, {token_dim})"
        )
    if z.dtype != dtype:
        raise ValueError(f"z is {z.dtype} and the model is {dtype}; convert z, as in z.to(model.dtype)")
