"""One query a head over cached keys and values as one Triton kernel.

Guided inverses have both branches in one batch, so that one launch serves them. Softmax goes along with the keys (running
maximum and sum), and no (b, heads, m) matrix is written.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from labcore.kernels.softmax_triton import more_keys

KEYS = 64


def cached_attention(
    q: Float[Tensor, "b heads 1 e"], k: Float[Tensor, "b heads m e"], v: Float[Tensor, "b heads m e"], scale: float
) -> Float[Tensor, "b heads 1 e"]:
    """`labcore.kernels.attention.causal_attention` of one query a head, with sums in float32 or better.

    k and v may be views of a longer cache. No gradient.
    """
    b, heads, m, e = k.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    scaled, out = (q.to(wide) * scale).contiguous(), torch.empty(b, heads, 1, e, dtype=q.dtype, device=q.device)
    if k.stride(3) != 1 or k.stride() != v.stride():
        k, v = k.contiguous(), v.contiguous()
    sizes = dict(
        E=e, WIDTH=triton.next_power_of_2(e), KEYS=KEYS, WIDE=tl.float64 if wide == torch.float64 else tl.float32
    )
    with torch.cuda.device_of(q):
        _attend[(b * heads,)](scaled, k, v, out, m, heads, k.stride(0), k.stride(1), k.stride(2), **sizes)
    return out


@triton.jit
@no_type_check
def _attend(
    q, k, v, out, m, heads, by_image, by_head, by_key,
    E: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first = (row // heads) * by_image + (row % heads) * by_head
    channel = tl.arange(0, WIDTH)
    known = channel < E
    query = tl.load(q + row * E + channel, mask=known, other=0.0)
    largest = tl.full((1,), float("-inf"), WIDE)
    total = tl.zeros((1,), WIDE)
    mixed = tl.zeros((WIDTH,), WIDE)
    for begin in range(0, m, KEYS):
        number = begin + tl.arange(0, KEYS)
        at = first + number[:, None] * by_key + channel[None, :]
        largest, total, mixed = more_keys(k, v, at, number < m, known, query, largest, total, mixed, WIDE)
    tl.store(out + row * E + channel, (mixed / total).to(out.dtype.element_ty), mask=known)
