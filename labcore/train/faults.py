"""What ends a training run, in words: numbers that are not finite, and too little memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from labcore.config import TrainConfig
from labcore.train import checkpoint


def not_finite(step: int, folder: Path) -> FloatingPointError:
    """The error for a loss, gradient or weight of `step` that is NaN or infinite."""
    good = checkpoint.latest_path(folder)
    return FloatingPointError(
        f"loss, gradient or weights stopped being finite at step {step}. "
        f"{f'The last good checkpoint is {good.name}' if good else 'Nothing was saved yet'} in {folder}. "
        "A lower lr, a smaller clip_norm, or affine_clamp in the model usually helps; start that in another folder"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the CPU, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


@contextlib.contextmanager
def enough_memory(config: TrainConfig, world: int = 1) -> Iterator[None]:
    """Turn running out of memory inside into a ValueError that says what to change.

    world: processes that share a batch.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        at_once = config.batch_size // (config.accumulation * world)
        reason = str(error).strip().splitlines()[0].rstrip(".")
        recompute = "" if config.recompute else ", or set train.recompute=true, which keeps fewer activations"
        raise ValueError(
            f"too little memory for train.batch_size={config.batch_size} with train.accumulation={config.accumulation}, "
            f"{at_once} images at a time ({reason}). Give a larger train.accumulation, which computes the same in smaller "
            f"parts{recompute}, or a smaller train.batch_size; `lab plan` says what fits"
        ) from error
