"""Floating-point operations of a call, counted while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flops(call: Callable[[], Any]) -> int:
    """FLOPs of the matrix products and convolutions that `call()` makes, a multiply-add being two.

    It runs once, on tensors of any shape and device, and what it returns is dropped; the count is for its whole batch,
    and gradients that it takes are in it. Attention counts as its matrix products: all pairs of queries and keys,
    masked ones too, and nothing computed twice, so that every device gives the same count, whatever its kernels do.
    Not counted: element-wise operations, sums, norms, softmax, look-ups, products of a matrix and a vector, and kernels
    that torch does not know. These take time too: a ratio of FLOPs is no ratio of seconds.
    """
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    with sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return counter.get_total_flops()


class _NoModules(contextlib.nullcontext):
    """Instead of torch's count by module, whose hooks refuse the gradient of a module's input by autograd.grad."""

    parents = frozenset({"Global"})
