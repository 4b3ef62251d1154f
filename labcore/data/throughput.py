"""How many images a second a data set gives, read and decoded as training does it."""

from __future__ import annotations

import time

from labcore.data.loaders import StepSampler, micro_batches
from labcore.data.protocol import Dataset

SECONDS = 10.0
"""Of measuring; our choice."""


def images_per_second(dataset: Dataset, batch_size: int, num_workers: int = 0, seconds: float = SECONDS) -> float:
    """Images a second of shuffled batches, after the first batch, for at least so many seconds; nothing is computed with them.

    What the system has read lately it reads again from memory, so a set that has just been copied seems faster than it is.
    """
    size = min(batch_size, len(dataset))
    batches = iter(micro_batches(dataset, StepSampler(len(dataset), size, 0, 0, 10**9), num_workers))
    next(batches)
    count, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds or not count:
        count += len(next(batches)[0])
    return count / taken
