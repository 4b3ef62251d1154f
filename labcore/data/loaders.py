"""Batches as a function of the step: the same images in the same order, however often a run was killed or split.

Step s takes the s-th group of `batch_size` images of an endless sequence of epochs, each a permutation drawn from (seed,
epoch); the last, smaller group of an epoch is left out. Resuming is starting the sampler at another step.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from labcore.rng import generator

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of sys/prctl.h


class StepSampler(Sampler[list[int]]):
    """Indices of each micro-batch, from step `start` to before step `stop`.

    batch_size counts the images of one optimizer step over all processes and micro-batches; process `rank` of `world`
    gets `accumulation` micro-batches a step.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
    ):
        if not 1 <= batch_size <= length:
            raise ValueError(f"batch_size was {batch_size}, and the data has {length} images; allowed are 1..{length}")
        if batch_size % (accumulation * world):
            raise ValueError(
                f"batch_size {batch_size} does not divide into {accumulation} micro-batches on {world} processes; "
                f"give a multiple of {accumulation * world}"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start, self.stop = start, stop
        self.accumulation, self.rank, self.world = accumulation, rank, world

    @property
    def steps_per_epoch(self) -> int:
        return self.length // self.batch_size

    def shares(self) -> list[slice]:
        """Which rows of a step's batch this process sees, one slice per micro-batch."""
        micro = self.batch_size // (self.accumulation * self.world)
        starts = ((m * self.world + self.rank) * micro for m in range(self.accumulation))
        return [slice(s, s + micro) for s in starts]

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = None, None
        for step in range(self.start, self.stop):
            if epoch != step // self.steps_per_epoch:
                epoch = step // self.steps_per_epoch
                order = torch.randperm(self.length, generator=generator(self.seed, "order", epoch))
            first = step % self.steps_per_epoch * self.batch_size
            batch = order[first : first + self.batch_size]
            for share in self.shares():
                yield batch[share].tolist()

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulation


def micro_batches(dataset, sampler: StepSampler, num_workers: int = 0, pin: bool = False) -> DataLoader:
    """(images uint8 (b, c, h, w), labels int64 (b,), rows int64 (b,)) for each micro-batch of `sampler`.

    Read by `num_workers` processes; rows are those of the data set.
    """
    return _loader(Numbered(dataset), num_workers, batch_sampler=sampler, pin_memory=pin)


class Numbered:
    """A data set whose batches say which of its rows they are."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        read = getattr(self.dataset, "__getitems__", lambda rows: [self.dataset[i] for i in rows])
        return (*as_batch(read(rows)), torch.tensor(rows))


def in_order(dataset, batch_size: int, num_workers: int = 0) -> DataLoader:
    """Every image once, in order: for evaluation. The last batch may be smaller."""
    return _loader(dataset, num_workers, batch_size=batch_size)


def _loader(dataset, num_workers: int, **options) -> DataLoader:
    """A loader with a generator of its own: by default it would draw its workers' seeds from torch's global one."""
    options |= dict(collate_fn=as_batch, generator=torch.Generator(), worker_init_fn=_serve_to_the_end)
    return DataLoader(dataset, num_workers=num_workers, **options)


def _serve_to_the_end(worker: int) -> None:
    """A reading process ends when its parent tells it to, or dies with it, and not by a signal to all processes of a job.

    Such a signal (of a terminal, `timeout`, Slurm) has the training finish its step and save, which needs its readers; and
    one that outlived it would hold the claim on its folder, as it inherits open files.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a handler would not know who sent it
        threading.Thread(target=_end_when_told, daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


def _end_when_told() -> None:
    """By a SIGTERM of the parent: torch and multiprocessing send one to readers that are left, and wait."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def as_batch(items) -> tuple[Tensor, ...]:
    """A data set's `__getitems__` returns a batch already; a list of (image, label) items is stacked."""
    if isinstance(items, tuple):
        return items
    images, labels = zip(*items, strict=True)
    return torch.stack(images), torch.as_tensor(labels)
