"""Batches as a function of the step: the same images in the same order, however often a run was killed or split.

Step s takes the s-th group of `batch_size` images of an endless sequence of epochs, each a permutation drawn from (seed,
epoch); the last, smaller group of an epoch is left out. Resuming is starting the sampler at another step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from labcore.reading import Images, loader_of, readers
from labcore.rng import generator


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


Extra = Callable[[Tensor], tuple[Tensor, ...]]
"""Rows (b,) of a data set -> tensors (b, ...) that belong to them."""


def micro_batches(
    dataset: Images, sampler: StepSampler, num_workers: int = 0, pin: bool = False, extra: Extra | None = None
) -> DataLoader:
    """(images uint8 (b, c, h, w), labels int64 (b,), rows int64 (b,)) for each micro-batch of `sampler`.

    Read by `num_workers` processes; rows are those of the data set. Then come the tensors of `extra`, read there too.
    """
    return loader_of(Numbered(dataset, extra), num_workers, batch_sampler=sampler, pin_memory=pin)


class Numbered:
    """A data set whose batches say which of its rows they are, and hold the extra tensors of these."""

    def __init__(self, dataset: Images, extra: Extra | None = None):
        self.dataset, self.extra = dataset, extra

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, ...]:
        index = torch.tensor(rows)
        return (*self.dataset.__getitems__(rows), index, *(self.extra(index) if self.extra else ()))


def in_order(dataset: Images, batch_size: int, num_workers: int | None = None) -> DataLoader:
    """Every image once, in order: for evaluation. The last batch may be smaller. num_workers: None for `readers`."""
    return loader_of(
        dataset, readers(dataset, len(dataset)) if num_workers is None else num_workers, batch_size=batch_size
    )
