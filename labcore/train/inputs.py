"""Batches of a training: which items this process reads, and their conversion to images on its device."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labcore.data.loaders import Numbered, StepSampler, micro_batches
from labcore.data.protocol import Dataset
from labcore.rng import StepNoise
from labcore.types import Batch

Prepare = Callable[[Tensor, StepNoise], tuple[Tensor, Tensor]]
"""A data set's items on the device -> clean images (b, c, h, w), and which of them are mirrored (b,)."""


class Inputs(NamedTuple):
    """The batches of one process.

    dataset: the items, as `labcore.train.loop.train` takes them.
    sampler: the items of each micro-batch of this process.
    prepare: makes images of items.
    device: where the images go.
    labelled: whether batches have labels; an unconditional model gets none.
    """

    dataset: Dataset
    sampler: StepSampler
    prepare: Prepare
    device: torch.device
    labelled: bool

    @property
    def micro_batch(self) -> int:
        """Images in a micro-batch."""
        return self.sampler.batch_size // (self.sampler.accumulation * self.sampler.world)

    def read(self, objective: nn.Module, num_workers: int) -> Iterator:
        """Read the items of each micro-batch with `num_workers` processes, for `batch`.

        If the objective has a method `extra`, the tensors that it names are read with the images.
        """
        # forked readers share the pages of a mapped file; readers that are started otherwise would get a copy
        reads = num_workers and multiprocessing.get_start_method() == "fork"
        extra = getattr(objective, "extra", None) if reads else None
        return iter(micro_batches(self.dataset, self.sampler, num_workers, self.device.type == "cuda", extra))

    def first(self, noise: StepNoise) -> Batch:
        """Return a micro-batch of the data set's first images."""
        return self.batch(Numbered(self.dataset).__getitems__(list(range(self.micro_batch))), noise)

    def batch(self, read: tuple[Tensor, ...] | list[Tensor], noise: StepNoise) -> Batch:
        """Return a batch on the device, made of the items that were read for it. noise: the random numbers of these images."""
        items, labels, index, *extra = read
        x, mirrored = self.prepare(self._sent(items), noise)
        y = self._sent(labels) if self.labelled else None
        return Batch(x, y, index, mirrored, tuple(map(self._sent, extra)))

    def _sent(self, value: Tensor) -> Tensor:
        return value.to(self.device, non_blocking=True)
