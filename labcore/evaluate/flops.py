"""Counts of a call's floating-point operations, of its operators, and of the bytes that it keeps for its gradient."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
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
    counter = _flop_counter()
    with sdpa_kernel(SDPBackend.MATH), dispatch.use("torch"), counter:  # other kernels' products are not seen
        call()
    return counter.get_total_flops()


def count_step(call: Callable[[], Any]) -> tuple[int, int]:
    """Count the FLOPs, as `count_flops` does, and the operators that `call()` and its gradients start, in one run on a CPU.

    Views are no operators. On a GPU each operator starts at least one kernel. Fused attention is one operator; its FLOPs are
    those of its matrix products, two forward and four backward.
    """
    counter, operators = _flop_counter(_FUSED), _Operators()
    with dispatch.use("torch"), counter, operators:  # the inner one sees operators before torch takes them apart
        call()
    return counter.get_total_flops(), operators.number


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


def _flop_counter(formulas: dict[Any, Any] | None = None) -> FlopCounterMode:
    """Make a counter of FLOPs, not by module. formulas: {operator: FLOPs from its shapes}, in place of torch's own."""
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    counter.mod_tracker = _NoModules()
    return counter


def _attention_gradient(
    grad: tuple[int, ...], query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *rest: Any, **more: Any
) -> int:
    """Return the FLOPs of attention's four products backward; torch's formula has the scores computed again too."""
    *batch, queries, width = query
    return 2 * math.prod(batch) * queries * key[-2] * (2 * width + 2 * value[-1])


_FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_gradient}


class _NoModules(contextlib.nullcontext):
    """Replacement for torch's count by module, whose hooks reject the gradient of a module's input by autograd.grad."""

    parents = frozenset({"Global"})


class _Operators(TorchDispatchMode):
    """Counts the operators that reach the device's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += not func.is_view and func.namespace != "prim"  # questions about tensors without values
        return func(*args, **(kwargs or {}))
