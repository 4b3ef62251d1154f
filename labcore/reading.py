"""Batches that worker processes read and decode: torch's DataLoader, in order, whose processes end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from labcore.processes import usable_cores

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of sys/prctl.h
FEW = 1000
"""Number of images that one process reads faster than others can be started; our choice."""
MOST_READERS = 8
"""Largest number of processes that read; our choice."""


@runtime_checkable
class Images(Protocol):
    """The part of a data set (`labcore.data.protocol.Dataset`) that reading its items needs.

    name, split: origin of the items. decodes: whether reading an item takes so much time that processes should share it.
    """

    name: str
    split: str
    decodes: bool

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a batch: items (b, ...), and their labels, int64 (b,)."""

    def subset(self, indices: Sequence[int]) -> Images:
        """Return the items at `indices`, in that order."""

    def fingerprint(self) -> str:
        """Return a text that is equal for equal data sets, and differs for different ones."""

    def named_fingerprint(self) -> str | None:
        """Return the fingerprint of earlier versions, which includes the name of the data's folder; None if it is the same."""


def parts_of(
    dataset: Images, parts: Sequence[range], device: torch.device | str = "cpu", num_workers: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images uint8 (b, c, h, w), labels (b,)) of each range of rows, in order, with images on `device`.

    Worker processes read and decode the next parts while this one computes. num_workers: number of them; None for `readers`.
    The values are the same as when this process reads.
    """
    device = torch.device(device)
    if num_workers is None:
        num_workers = readers(dataset, sum(map(len, parts)))
    loader = loader_of(
        dataset, num_workers, batch_sampler=[list(part) for part in parts], pin_memory=device.type == "cuda"
    )
    return ((images.to(device, non_blocking=True), labels) for images, labels in loader)


def readers(dataset: Images, count: int) -> int:
    """Return how many processes should read `count` images: 0 for few images, or for images that need no decoding.

    Otherwise half of the cores in this process's share of the machine, at most 8.
    """
    if count < FEW or not dataset.decodes:
        return 0
    cores = usable_cores()
    return min(MOST_READERS, cores // (2 * int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def loader_of(dataset, num_workers: int, **options) -> DataLoader:
    """Return a loader with its own generator; by default it would draw its workers' seeds from torch's global one."""
    options |= dict(collate_fn=already_batched, generator=torch.Generator(), worker_init_fn=_serve_to_the_end)
    return DataLoader(dataset, num_workers=num_workers, **options)


def _serve_to_the_end(worker: int) -> None:
    """Let a reading process end with its parent or on its request, but not by a signal to all processes of a job.

    After such a signal (from a terminal, `timeout`, Slurm) the training finishes its step and saves, for which it needs its
    readers. A reader that outlives the training would keep the lock on its folder, because it inherits open files.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a handler would not know who sent it
        threading.Thread(target=_end_when_told, daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


def _end_when_told() -> None:
    """End on a SIGTERM of the parent: torch and multiprocessing send one to remaining readers, and wait."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def already_batched(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the batch itself: a data set's `__getitems__` has stacked its items already."""
    return batch
