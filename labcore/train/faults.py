"""Errors that end a training run: numbers that are not finite, and too little memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from labcore.config import TrainConfig
from labcore.hints import first_line
from labcore.train import checkpoint


def not_finite(step: int, folder: Path) -> FloatingPointError:
    """Return the error for a loss, gradient or weight of `step` that is NaN or infinite."""
    good = checkpoint.latest_path(folder)
    return FloatingPointError(
        f"loss, gradient or weights stopped being finite at step {step}. "
        f"{f'The last good checkpoint is {good.name}' if good else 'Nothing was saved yet'} in {folder}. "
        "A lower lr, a smaller clip_norm, or affine_clamp in the model usually helps; start that in another folder"
    )


SAID = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of torch's other messages about a device, or a CPU, without free memory."""


class TooLittleMemory(ValueError):
    """A training step does not fit into memory; the message says what to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device, or the CPU, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


@contextlib.contextmanager
def enough_memory(config: TrainConfig, world: int = 1) -> Iterator[None]:
    """Turn an out-of-memory error inside into `TooLittleMemory`, a ValueError that says what to change.

    world: processes that share a batch.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        at_once = config.batch_size // (config.accumulation * world)
        reason = first_line(error).rstrip(".")
        recompute = "" if config.recompute else ", or set train.recompute=true, which keeps fewer activations"
        raise TooLittleMemory(
            f"too little memory for train.batch_size={config.batch_size} with train.accumulation={config.accumulation}, "
            f"{at_once} images at a time ({reason}). Give a larger train.accumulation, which computes the same in smaller "
            f"parts{recompute}, or a smaller train.batch_size; `lab plan` says what fits"
        ) from error
