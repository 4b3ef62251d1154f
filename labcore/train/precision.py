"""Number format of a run, and whether torch.compile works here. Each falls back with one message."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import nn

from labcore import tf32
from labcore.config import TrainConfig
from labcore.hints import first_line


def resolve(precision: str, device: torch.device, step: Callable[[torch.dtype | None], None]) -> str:
    """Return "fp32", "bf16" or "fp16" for a configuration.

    step(dtype) runs one forward and backward pass under autocast to dtype (None: none). "auto" benchmarks both on a CPU
    and takes the faster; on CUDA it takes bf16 if the card supports it, else fp32. Raises ValueError for fp16 on a CPU.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(
            f"precision 'fp16' needs a CUDA device, and this is {device.type}; use 'bf16', 'fp32' or 'auto'"
        )
    if precision == "fp32" or precision == "fp16":
        return precision
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported()
        if precision == "bf16" and not supported:
            warnings.warn(f"{torch.cuda.get_device_name(device)} has no bf16; training in fp32", stacklevel=2)
        return "bf16" if supported else "fp32"
    if device.type != "cpu":  # mps: autocast to bf16 is not complete there
        if precision == "bf16":
            warnings.warn(f"bf16 is not used on {device.type}; training in fp32", stacklevel=2)
        return "fp32"
    if precision == "bf16":
        return "bf16"
    return "bf16" if _seconds(step, torch.bfloat16) < 0.9 * _seconds(step, None) else "fp32"


def describe(config: TrainConfig, chosen: str, device: torch.device) -> str:
    """Describe the number formats of a run in one line: "precision bf16 (auto, on cuda), TF32 off"."""
    asked = f"{config.precision}, " if config.precision != chosen else ""
    return f"precision {chosen} ({asked}on {device.type})" + (
        "" if device.type == "cpu" else f", TF32 {tf32.describe()}"
    )


def autocast_step(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[torch.dtype | None], None]:
    """Return the trial step for `resolve` on a CPU: gradients are dropped, weights do not change."""

    def step(dtype: torch.dtype | None) -> None:
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            value = loss()
        value.backward()
        model.zero_grad(set_to_none=True)

    return step


PROGRAMS = 64
"""Programs of one function before torch.compile gives up, 8 by default: a layer's forward has one with and one without a
gradient for each size of batch, and several models may be trained in one process; our choice."""


def try_compile(layers: Iterable[nn.Module], step: Callable[[], None]) -> bool:
    """Compile `layers` in place and run `step` once; if that fails, undo it with one message.

    Layers of one kind and size share one program in all blocks. Whole blocks would be compiled once for each order of the
    tokens, and each program would be longer by the number of layers. Raises torch.OutOfMemoryError.
    """
    layers = list(layers)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, PROGRAMS)
    for layer in layers:
        layer.compile()
    try:
        step()
        return True
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        for layer in layers:
            layer._compiled_call_impl = None
        reason = first_line(error)
        warnings.warn(f"torch.compile does not work here ({reason}); going on without it", stacklevel=2)
        return False


def uncompiled(compiled: bool) -> contextlib.AbstractContextManager:
    """Run compiled layers as plain ones inside, so a diagnosis with other sizes makes no new program.

    compiled: whether any layer is compiled; torch's compiler takes seconds to import.
    """
    return torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()


def _seconds(step: Callable[[torch.dtype | None], None], dtype: torch.dtype | None) -> float:
    """Return the processor time of a step; wall time would depend on other work on the machine."""
    step(dtype)
    times = []
    for _ in range(3):
        start = time.process_time()
        step(dtype)
        times.append(time.process_time() - start)
    return min(times)
