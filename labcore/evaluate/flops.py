"""Counts of a call's floating-point operations, and of the bytes that it keeps for its gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from labcore.kernels import dispatch


def count_flops(call: Callable[[], Any]) -> int:
    """Count the FLOPs of the matrix products and convolutions of `call()`; a multiply-add counts as two.

    The call runs once, on tensors of any shape and device, and its result is dropped. The count covers its whole batch,
    and the gradients that it computes. Attention counts as its matrix products: all pairs of queries and keys, also
    masked ones, and nothing computed twice. So every device gives the same count, for all kernels. Not counted:
    element-wise operations, sums, norms, softmax, look-ups, products of a matrix and a vector, and kernels that torch
    does not know. These take time too, so a ratio of FLOPs is no ratio of seconds.
    """
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    with sdpa_kernel(SDPBackend.MATH), dispatch.use("torch"), counter:  # other kernels' products are not seen
        call()
    return counter.get_total_flops()


def count_saved(
    call: Callable[[], Tensor], own: Iterable[Tensor] = (), skip: Callable[[Tensor], bool] = lambda x: False
) -> int:
    """Count the bytes that `call()` keeps for its backward pass, each storage once, without those of `own` and `skip`."""
    storages: dict[int, Any] = {}
    parameters = {p.untyped_storage()._cdata for p in own}

    def keep(x: Tensor) -> Tensor:
        if not skip(x):
            storages[x.untyped_storage()._cdata] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        found = call()
    del found
    return sum(storage.nbytes() for number, storage in storages.items() if number not in parameters)


class _NoModules(contextlib.nullcontext):
    """Replacement for torch's count by module, whose hooks reject the gradient of a module's input by autograd.grad."""

    parents = frozenset({"Global"})
