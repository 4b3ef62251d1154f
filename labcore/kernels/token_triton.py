"""The parts of a transformer layer for one token after its predecessors, as Triton kernels.

An exact inverse computes one token of each image at a time, so that every weight is read for a few rows only. What costs time
on a GPU then is the number of kernels and not their arithmetic. `linear` does a normalisation, a product, an activation and a
residual sum in one kernel, and `attend` writes to the cache and reads no more of it than is filled. A layer is five kernels;
with torch's operations it is fourteen in float32.
"""

from __future__ import annotations

from typing import Literal, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from labcore.kernels.softmax_triton import more_keys

OUTPUTS, COLUMNS, WARPS = 2, 1024, 4
"""Outputs that one program of `linear` computes, weights of each that it holds at once, and its warps: the fastest of five
choices on an H200 (one row, bfloat16, three sizes of width 1024)."""
WAVE = 128
"""Programs that run at the same time, about: one for each multiprocessor of a large GPU."""
FEW_PROGRAMS, MANY_PROGRAMS = (256, 8), (32, 2)
"""Keys that a program of `attend` holds at once, and its warps, up to WAVE programs and for more: the fastest of four choices
each on an H200 (1 and 64 rows of 16 heads of 64, bfloat16, 160 keys)."""

Norm = Literal["none", "layer", "rms"]
Activation = Literal["none", "gelu", "swiglu"]


def linear(
    x: Float[Tensor, "rows k"],
    weight: Float[Tensor, "n k"],
    bias: Float[Tensor, " n"],
    norm: Norm = "none",
    eps: float = 0.0,
    activation: Activation = "none",
    residual: Float[Tensor, "rows m"] | None = None,
) -> Float[Tensor, "rows m"]:
    """Return residual + activation(norm(x) weight^T + bias) for few rows, a power of two; sums in float32 or better.

    norm: over k, without weights of its own. activation: "swiglu" is silu of the first half of the outputs times the second
    half, so that m = n / 2; else m = n. The result has the dtype of `residual`; without one float32, or float64 for float64.
    No gradient.
    """
    rows, k = x.shape
    m = len(weight) // 2 if activation == "swiglu" else len(weight)
    wide = torch.promote_types(x.dtype, torch.float32)
    out = torch.empty(rows, m, dtype=wide if residual is None else residual.dtype, device=x.device)
    whole = triton.next_power_of_2(k)
    sizes = dict(ROWS=rows, OUTPUTS=OUTPUTS, COLUMNS=min(COLUMNS, whole), WIDTH=whole, num_warps=WARPS)
    kinds = dict(NORM=norm, EPS=eps, ACTIVATION=activation, WIDE=_wide(wide), RESIDUAL=residual is not None)
    with torch.cuda.device_of(x):
        _linear[(triton.cdiv(m, OUTPUTS),)](
            x.contiguous(), weight, bias, out if residual is None else residual, out, k, m, **sizes, **kinds
        )
    return out


def attend(
    qkv: Float[Tensor, "rows c"],
    keys: Float[Tensor, "rows heads t e"],
    values: Float[Tensor, "rows heads t e"],
    position: Int[Tensor, " 1"],
    temperature: Float[Tensor, "rows 1 1 1"] | None,
    scale: float,
) -> Float[Tensor, "rows width"]:
    """Write the token's key and value to the cache at `position`, and attend with its query over the cache up to there.

    qkv: queries, keys and values of all heads, c = 3 width, in this order. position: on the device, so that a recorded call
    can be repeated for other positions. temperature: divides the logits; None is 1. Sums in float32 or better; the result has
    the dtype of `qkv`. No gradient.
    """
    rows, heads, _, e = keys.shape
    wide = torch.promote_types(qkv.dtype, torch.float32)
    out = torch.empty(rows, heads * e, dtype=qkv.dtype, device=qkv.device)
    keys_at_once, warps = FEW_PROGRAMS if rows * heads <= WAVE else MANY_PROGRAMS
    sizes = dict(E=e, WIDTH=triton.next_power_of_2(e), KEYS=keys_at_once, FACTOR=scale, WIDE=_wide(wide))
    divisor = out if temperature is None else temperature
    with torch.cuda.device_of(qkv):
        _attend[(rows * heads,)](
            qkv.contiguous(),
            keys,
            values,
            out,
            position,
            divisor,
            heads,
            *keys.stride()[:3],
            TEMPERED=temperature is not None,
            num_warps=warps,
            **sizes,
        )
    return out


def _wide(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


@triton.jit
def _linear(
    x, weight, bias, residual, out, columns, width,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    NORM: tl.constexpr, EPS: tl.constexpr, ACTIVATION: tl.constexpr, WIDE: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.arange(0, ROWS)
    known = n < width
    k = tl.arange(0, COLUMNS)
    at, there = n[:, None] * columns + k[None, :], known[:, None] & (k < columns)[None, :]
    tile = tl.load(weight + at, mask=there, other=0.0)  # on its way while the norm is computed
    second_tile = tile
    if ACTIVATION == "swiglu":
        second_tile = tl.load(weight + width * columns + at, mask=there, other=0.0)
    mean, scale = tl.zeros((ROWS,), WIDE), tl.full((ROWS,), 1.0, WIDE)
    if NORM != "none":
        every = tl.arange(0, WIDTH)
        inside = (every < columns)[None, :]
        whole = tl.load(x + row[:, None] * columns + every[None, :], mask=inside, other=0.0).to(WIDE)
        if NORM == "layer":
            mean = tl.sum(whole, axis=1) / columns
            whole = tl.where(inside, whole - mean[:, None], 0.0)
        scale = 1 / tl.sqrt(tl.sum(whole * whole, axis=1) / columns + EPS)
    total = tl.zeros((ROWS, OUTPUTS, COLUMNS), WIDE)
    second = tl.zeros((ROWS, OUTPUTS, COLUMNS), WIDE)
    for begin in range(0, columns, COLUMNS):
        now = begin + k
        part = tl.load(x + row[:, None] * columns + now[None, :], mask=(now < columns)[None, :], other=0.0).to(WIDE)
        part = ((part - mean[:, None]) * scale[:, None])[:, None, :]
        total += part * tile.to(WIDE)[None, :, :]
        ahead = known[:, None] & (now + COLUMNS < columns)[None, :]
        tile = tl.load(weight + at + begin + COLUMNS, mask=ahead, other=0.0)
        if ACTIVATION == "swiglu":
            second += part * second_tile.to(WIDE)[None, :, :]
            second_tile = tl.load(weight + width * columns + at + begin + COLUMNS, mask=ahead, other=0.0)
    y = tl.sum(total, axis=2) + tl.load(bias + n, mask=known, other=0.0).to(WIDE)[None, :]
    if ACTIVATION == "gelu":
        y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
    if ACTIVATION == "swiglu":
        value = tl.sum(second, axis=2) + tl.load(bias + width + n, mask=known, other=0.0).to(WIDE)[None, :]
        y = y / (1 + tl.exp(-y)) * value
    place = row[:, None] * width + n[None, :]
    if RESIDUAL:
        y += tl.load(residual + place, mask=known[None, :], other=0.0).to(WIDE)
    tl.store(out + place, y.to(out.dtype.element_ty), mask=known[None, :])


@triton.jit
@no_type_check
def _attend(
    qkv, keys, values, out, position, temperature, heads, by_image, by_head, by_key,
    E: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr, FACTOR: tl.constexpr,
    WIDE: tl.constexpr, TEMPERED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    image, head = row // heads, row % heads
    first = image * by_image + head * by_head
    channel = tl.arange(0, WIDTH)
    known = channel < E
    own = qkv + image * 3 * heads * E + head * E + channel
    query = tl.load(own, mask=known, other=0.0).to(WIDE) * FACTOR
    if TEMPERED:
        query = query / tl.load(temperature + image).to(WIDE)
    key = tl.load(own + heads * E, mask=known, other=0.0).to(keys.dtype.element_ty)
    value = tl.load(own + 2 * heads * E, mask=known, other=0.0).to(values.dtype.element_ty)
    now = tl.load(position).to(tl.int32)
    tl.store(keys + first + now * by_key + channel, key, mask=known)
    tl.store(values + first + now * by_key + channel, value, mask=known)
    largest = tl.zeros((1,), WIDE) + tl.sum(query * key.to(WIDE), axis=0)
    total = tl.full((1,), 1.0, WIDE)
    mixed = value.to(WIDE)
    for begin in range(0, now, KEYS):
        number = begin + tl.arange(0, KEYS)
        at = first + number[:, None] * by_key + channel[None, :]
        largest, total, mixed = more_keys(keys, values, at, number < now, known, query, largest, total, mixed, WIDE)
    tl.store(out + row * E + channel, (mixed / total).to(out.dtype.element_ty), mask=known)
