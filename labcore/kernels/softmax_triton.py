"""Softmax-weighted sums over keys, some keys after others, with a running maximum: a part of Triton's attention kernels."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check  # as in every kernel that calls another: a wrapper that checks annotations hides one's names from the other
def more_keys(keys, values, at, inside, known, query, largest, total, mixed, WIDE: tl.constexpr):
    """Return (largest, total, mixed) after further keys: the largest logit, the sum of exponentials, and that of the values.

    keys, values: pointers; at: (n, width) offsets. inside: (n,) keys that exist. known: (width,) channels that exist. query:
    (width,), with the scale of the logits in it. Logits are relative to `largest`, which starts at -infinity.
    """
    seen = inside[:, None] & known[None, :]
    logits = tl.sum(tl.load(keys + at, mask=seen, other=0.0).to(WIDE) * query[None, :], axis=1)
    logits = tl.where(inside, logits, float("-inf"))
    higher = tl.maximum(largest, tl.max(logits, axis=0))
    shares, shrink = tl.exp(logits - higher), tl.exp(largest - higher)
    total = total * shrink + tl.sum(shares, axis=0)
    mixed = mixed * shrink + tl.sum(tl.load(values + at, mask=seen, other=0.0).to(WIDE) * shares[:, None], axis=0)
    return higher, total, mixed
