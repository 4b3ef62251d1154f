"""Batches that other processes read and decode: torch's DataLoader, in order, whose processes end with their parent."""

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
"""Images that one process reads sooner than others are started; our choice."""
MOST_READERS = 8
"""Processes that read; our choice."""


@runtime_checkable
class Images(Protocol):
    """The part of a data set (`labcore.data.protocol.Dataset`) that reading its items needs.

    name, split: where the items are from. decodes: whether reading an item costs time, so that processes should share it.
    """

    name: str
    split: str
    decodes: bool

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch: items (b, ...), and their labels, int64 (b,)."""

    def subset(self, indices: Sequence[int]) -> Images:
        """The items at `indices`, in that order."""

    def fingerprint(self) -> str:
        """A text that is the same for equal data sets, and another for others."""

    def named_fingerprint(self) -> str | None:
        """The fingerprint of earlier versions, with the name of the data's folder in it; None where they had the same."""


def parts_of(
    dataset: Images, parts: Sequence[range], device: torch.device | str = "cpu", num_workers: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images uint8 (b, c, h, w), labels (b,)) of each range of rows, in order; the images on `device`.

    Processes read and decode the next parts while this one computes. num_workers: None for `readers`. The numbers are those
    of reading here.
    """
    device = torch.device(device)
    if num_workers is None:
        num_workers = readers(dataset, sum(map(len, parts)))
    loader = loader_of(
        dataset, num_workers, batch_sampler=[list(part) for part in parts], pin_memory=device.type == "cuda"
    )
    return ((images.to(device, non_blocking=True), labels) for images, labels in loader)


def readers(dataset: Images, count: int) -> int:
    """How many processes should read `count` images of a data set: none for few images, or where none are decoded.

    Half the cores of this process's share of the machine, at most 8.
    """
    if count < FEW or not dataset.decodes:
        return 0
    cores = usable_cores()
    return min(MOST_READERS, cores // (2 * int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def loader_of(dataset, num_workers: int, **options) -> DataLoader:
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


def as_batch(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The batch itself: a data set's `__getitems__` has stacked its items already."""
    return batch
