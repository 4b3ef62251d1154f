"""`labcore.kernels.change` as one Triton kernel: a program a token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor


def sweep_change(
    new: Float[Tensor, "b n d"], old: Float[Tensor, "b n d"], rounding: float
) -> tuple[Float[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """As the reference, with its rounding."""
    b, n, d = new.shape
    largest, still = new.new_empty(b, n), torch.empty(b, n, dtype=torch.bool, device=new.device)
    given, width = (new.contiguous(), old.contiguous()), triton.next_power_of_2(d)
    with torch.cuda.device_of(new):
        _change[(b * n,)](*given, largest, still, rounding, d, WIDTH=width)
    return largest, still


@triton.jit
def _change(new, old, largest, still, rounding, d, WIDTH: tl.constexpr):
    token, value = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    inside = value < d
    a = tl.load(new + token * d + value, mask=inside, other=0.0)
    moved = tl.abs(a - tl.load(old + token * d + value, mask=inside, other=0.0))
    known = moved == moved
    settled = known & (moved <= rounding * tl.maximum(tl.abs(a), 1.0))
    tl.store(largest + token, tl.max(tl.where(known, moved, float("inf")), axis=0))
    tl.store(still + token, tl.min(settled.to(tl.int32), axis=0) != 0)
