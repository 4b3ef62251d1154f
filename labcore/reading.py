"""Batches that other processes read and decode: torch's DataLoader, in order, whose processes end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from labcore.processes import usable_cores

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of sys/prctl.h
FEW = 1000
"""Images that one process reads sooner than others are started; our choice."""
MOST_READERS = 8
"""Processes that read; our choice."""


def parts_of(
    dataset, parts: Sequence[range], device: torch.device | str = "cpu", num_workers: int | None = None
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


def readers(dataset, count: int) -> int:
    """How many processes should read `count` images of a data set: none for few images, or where none are decoded.

    Half the cores of this process's share of the machine, at most 8.
    """
    while not hasattr(dataset, "decodes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset  # inside torch's Subset
    if count < FEW or not getattr(dataset, "decodes", False):
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


def as_batch(items) -> tuple[Tensor, ...]:
    """A data set's `__getitems__` returns a batch already; a list of (image, label) items is stacked."""
    if isinstance(items, tuple):
        return items
    images, labels = zip(*items, strict=True)
    return torch.stack(images), torch.as_tensor(labels)
