"""The step of one token with Triton's kernels, which a CUDA graph records (`labcore.inverse.graphed`).

Triton is imported when a step is first called.

Attention is one kernel, for any number of rows: it writes to the cache and reads what is filled. For few rows the rest of a
layer is four kernels; for more rows it is torch's products.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from labcore.inverse.compiled import enter
from labcore.inverse.decode import FoldedLayer, after_attention, before_attention, outside_autocast

FEW = 2
"""Rows up to which a whole layer is Triton's. For more rows torch's products on tensor cores are as fast or faster: for 8 in
bfloat16 on an H200, 18 us a product against 5."""


def triton_step(
    before: Callable[..., Tensor],
    after: Callable[..., Tensor],
    u: Tensor,
    position: Tensor,
    weights: tuple[Tensor, ...],
    condition: Tensor | None,
    temperature: Tensor | None,
    rope: None,
    layers: list,
    cache: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """As `compiled.token_step`, for positions that are learned.

    before, after: a layer up to its queries, keys and values, and from the output of attention on.
    """
    from labcore.kernels.token_triton import attend

    h = enter(u, position, weights, condition)
    for layer, (keys, values) in zip(layers, cache, strict=True):
        mixed = attend(before(layer, h), keys, values, position, temperature, keys.shape[-1] ** -0.5)
        h = after(layer, h, mixed)
    return outside_autocast(h, *weights[2:])


def parts_for(rows: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Return `before` and `after` of `triton_step` for a number of rows: few rows need no torch.compile."""
    return (before_in_one, after_in_three) if rows <= FEW else (before_attention, after_attention)


def before_in_one(layer: FoldedLayer, h: Tensor) -> Tensor:
    """As `decode.before_attention`, in one kernel."""
    from labcore.kernels.token_triton import linear

    return linear(h, *layer.qkv, norm=_norm(layer), eps=layer.eps)


def after_in_three(layer: FoldedLayer, h: Tensor, mixed: Tensor) -> Tensor:
    """As `decode.after_attention`, in three kernels."""
    from labcore.kernels.token_triton import linear

    h = linear(mixed, *layer.out, residual=h)
    activation = "gelu" if layer.gelu else "swiglu"
    up = linear(h, *layer.up, norm=_norm(layer), eps=layer.eps, activation=activation)
    return linear(up, *layer.down, residual=h)


def _norm(layer: FoldedLayer) -> str:
    return "layer" if layer.centred else "rms"
