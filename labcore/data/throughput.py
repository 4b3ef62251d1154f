"""Speed of reading a data set, in images per second, with the loader of training."""

from __future__ import annotations

import time

from labcore.data.loaders import StepSampler, micro_batches
from labcore.data.protocol import Dataset

SECONDS = 10.0
"""Duration of a measurement in seconds; our choice."""


def images_per_second(dataset: Dataset, batch_size: int, num_workers: int = 0, seconds: float = SECONDS) -> float:
    """Measure the images per second of shuffled batches, without the first batch, for at least `seconds`.

    The operating system keeps recently read files in memory, so a data set that was just copied seems faster than it is.
    """
    size = min(batch_size, len(dataset))
    batches = iter(micro_batches(dataset, StepSampler(len(dataset), size, 0, 0, 10**9), num_workers))
    next(batches)
    count, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds or not count:
        count += len(next(batches)[0])
    return count / taken
