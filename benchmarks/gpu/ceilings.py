"""Rows 1 to 4: what the card does at best, by which the lower bounds of all other rows are computed."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.card import card
from benchmarks.gpu.measure import one
from benchmarks.gpu.setting import Setting, at_least, entry, tf32

CALLS = 10
"""Products in a timed call, so that waiting for the device does not count."""


def copying(s: Setting) -> list[dict[str, Any]]:
    """Bytes/s, read and written, of copying a block of memory."""
    source = torch.zeros(s.sizes.copied, dtype=torch.uint8, device=s.device)
    target = torch.empty_like(source)
    ours = one(lambda: target.copy_(source), s.budget, least=5)
    rate = 2 * s.sizes.copied / ours.seconds
    s.record.values["ceilings"]["copy"] = rate
    return [entry("copy", ours, checks=(at_least("TB/s", rate / 1e12, 3.0),), rate=rate)]


def product(s: Setting, precision: str, wanted: float) -> list[dict[str, Any]]:
    """FLOP/s of a square matrix product; wanted: TFLOP/s."""
    n, dtype = s.sizes.product, torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=s.device, dtype=dtype) for _ in "ab")
    out = torch.empty_like(a)

    def products() -> None:
        for _ in range(CALLS):
            torch.mm(a, b, out=out)

    with tf32(precision == "tf32"):
        ours = one(products, s.budget, least=5)
    s.record.values["card after products"] = card()
    rate = CALLS * 2 * n**3 / ours.seconds
    s.record.values["ceilings"][precision] = rate
    return [entry(precision, ours, checks=(at_least("TFLOP/s", rate / 1e12, wanted),), rate=rate)]
