"""Batches that depend only on seed and step, so a resumed run sees the same images in the same order.

Each epoch is a permutation of the images, drawn from (seed, epoch). Step s takes the s-th group of `batch_size` images of the
sequence of epochs; the last, smaller group of an epoch is left out. To resume, start the sampler at a later step. A
balanced sampler has epochs with equally many images of each class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from labcore.reading import Images, loader_of, readers
from labcore.rng import generator


def check_micro_batches(batch_size: int, accumulation: int, world: int) -> None:
    """Raise ValueError unless a step's images divide into micro-batches of one size on `world` processes."""
    if batch_size % (accumulation * world):
        raise ValueError(
            f"batch_size {batch_size} does not divide into {accumulation} micro-batches on {world} processes; "
            f"give a multiple of {accumulation * world}"
        )


class StepSampler(Sampler[list[int]]):
    """Sampler of the indices of each micro-batch of one process.

    Args:
        length: number of images of the data set.
        batch_size: images of one optimizer step, over all processes and micro-batches.
        seed: random seed of the order.
        start: the first step.
        stop: the step before which the sampler ends.
        accumulation: micro-batches per step and process; default 1.
        rank: number of this process, from 0; default 0.
        world: number of processes; default 1.

    Raises:
        ValueError: batch_size is not in 1..length, or not a multiple of accumulation x world.
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
            raise ValueError(f"batch_size was {batch_size} for {length} images; allowed are 1..{length}")
        check_micro_batches(batch_size, accumulation, world)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start, self.stop = start, stop
        self.accumulation, self.rank, self.world = accumulation, rank, world

    @property
    def steps_per_epoch(self) -> int:
        return self.length // self.batch_size

    def shares(self) -> list[slice]:
        """Return the rows of a step's batch that this process reads, as one slice per micro-batch."""
        micro = self.batch_size // (self.accumulation * self.world)
        starts = ((m * self.world + self.rank) * micro for m in range(self.accumulation))
        return [slice(s, s + micro) for s in starts]

    def order(self, epoch: int) -> Int64[Tensor, " n"]:
        """Return the indices of an epoch's images in order, as many as the data set has images."""
        return torch.randperm(self.length, generator=generator(self.seed, "order", epoch))

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = None, None
        for step in range(self.start, self.stop):
            if epoch != step // self.steps_per_epoch:
                epoch = step // self.steps_per_epoch
                order = self.order(epoch)
            first = step % self.steps_per_epoch * self.batch_size
            batch = order[first : first + self.batch_size]
            for share in self.shares():
                yield batch[share].tolist()

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulation


class BalancedStepSampler(StepSampler):
    """A sampler whose epochs have equally many images of each class, up to a difference of one.

    labels: the class of each image. An epoch has as many images as the data set. Images of a small class are repeated, all of
    them equally often, up to a difference of one. Of a large class, an epoch has only some images. Classes without images are
    left out.
    """

    def __init__(self, labels: Int64[Tensor, " n"], *settings: int) -> None:
        """Set up the sampler. settings: the arguments of `StepSampler` after `length`."""
        super().__init__(len(labels), *settings)
        self.rows = [(labels == label).nonzero().flatten() for label in labels.unique()]

    def order(self, epoch: int) -> Int64[Tensor, " n"]:
        """Return the indices of an epoch's images in order, as many as the data set has images."""
        random = generator(self.seed, "balanced", epoch)
        shuffled = torch.randperm(len(self.rows), generator=random).tolist()  # which classes have one more
        share, more = divmod(self.length, len(self.rows))
        chosen = [_repeated(self.rows[k], share + (place < more), random) for place, k in enumerate(shuffled)]
        return torch.cat(chosen)[torch.randperm(self.length, generator=random)]


def _repeated(rows: Int64[Tensor, " n"], count: int, random: torch.Generator) -> Int64[Tensor, " m"]:
    """Return `count` of the rows: random permutations of all rows, one after the other."""
    times = -(-count // len(rows))
    return torch.cat([rows[torch.randperm(len(rows), generator=random)] for _ in range(times)] or [rows[:0]])[:count]


Extra = Callable[[Tensor], tuple[Tensor, ...]]
"""Function from rows (b,) of a data set to further tensors (b, ...) of these rows, such as encoder tokens."""


def micro_batches(
    dataset: Images, sampler: StepSampler, num_workers: int = 0, pin: bool = False, extra: Extra | None = None
) -> DataLoader:
    """Return a loader of (items (b, ...), labels int64 (b,), rows int64 (b,), *extra tensors) for each micro-batch.

    Args:
        dataset: the data set; its pictures are uint8 (c, h, w).
        sampler: the indices of each micro-batch.
        num_workers: processes that read; default 0, the calling process.
        pin: whether batches are put into pinned memory, for copies to a GPU; default False.
        extra: further tensors of the rows, read by the same processes; default None.
    """
    return loader_of(Numbered(dataset, extra), num_workers, batch_sampler=sampler, pin_memory=pin)


class Numbered:
    """A data set whose batches also have the numbers of their rows and the tensors of `extra`."""

    def __init__(self, dataset: Images, extra: Extra | None = None):
        self.dataset, self.extra = dataset, extra

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, ...]:
        index = torch.tensor(rows)
        return (*self.dataset.__getitems__(rows), index, *(self.extra(index) if self.extra else ()))


def in_order(dataset: Images, batch_size: int, num_workers: int | None = None) -> DataLoader:
    """Return a loader of every image once, in order, for evaluation. The last batch may be smaller.

    num_workers: processes that read; None (default) lets `labcore.reading.readers` choose.
    """
    return loader_of(
        dataset, readers(dataset, len(dataset)) if num_workers is None else num_workers, batch_size=batch_size
    )
