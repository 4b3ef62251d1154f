"""Memory of recorded steps, kept between calls, and the number of images that fit a device's memory."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

from labcore.config import TarFlowConfig
from labcore.inverse.compiled import padded

MOST = 4
"""Idle workspaces that are kept, those used last; our choice."""


class Workspaces:
    """Idle workspaces by what they are made for. A workspace in use is not among them, so that two users never share one.

    A workspace has `bytes`, its memory, and `failed`, with which it is not kept.
    """

    def __init__(self, most: int = MOST):
        self.most, self.idle, self.lock = most, OrderedDict(), threading.RLock()

    def take(self, key: Hashable, make: Callable[[], Any], needed: int, device: torch.device) -> Any:
        """Return an idle workspace of this key, or a new one of about `needed` bytes, with as much memory left free."""
        with self.lock:
            found = self.idle.pop(key, None)
        if found is None:
            self.make_room(2 * needed, device)
            found = make()
        return found

    def make_room(self, wanted: int, device: torch.device) -> None:
        """Drop idle workspaces, the oldest first, as long as a CUDA device has less than `wanted` bytes free."""
        with self.lock:
            while self.idle and (free := free_bytes(device)) is not None and free < wanted:
                self.idle.popitem(last=False)

    def give_back_after(self, user: object, key: Hashable, workspace: Any) -> None:
        """Keep a workspace after its user is deleted."""
        weakref.finalize(user, self.keep, key, workspace).atexit = False

    def keep(self, key: Hashable, workspace: Any) -> None:
        """Put a workspace among the idle ones, unless its recording failed."""
        if workspace.failed:
            return
        with self.lock:
            self.idle[key] = workspace
            self.idle.move_to_end(key)
            while len(self.idle) > self.most:
                self.idle.popitem(last=False)

    def bytes(self) -> int:
        """Memory of all idle workspaces in bytes, which can be freed at any time."""
        with self.lock:
            return sum(each.bytes for each in self.idle.values())


IDLE = Workspaces()


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that torch can still take on a CUDA device; None on others."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def row_bytes(config: TarFlowConfig, dtype: torch.dtype) -> int:
    """Return the bytes of keys and values of one row in all layers of a block."""
    return 2 * config.layers_per_block * config.tokens * config.width * dtype.itemsize


def chunk_that_fits(asked: int, branches: int, config: TarFlowConfig, dtype: torch.dtype, free: int | None) -> int:
    """Return how many of `asked` images to invert at once, at least 1, so that their caches take at most half of `free` bytes.

    branches: 2 with guidance. dtype: of the cache. free: None sets no limit.
    """
    if free is None:
        return asked
    rows = free // 2 // row_bytes(config, dtype)
    images = max(1, min(asked, rows // branches))
    while images > 1 and padded(images * branches) > rows:
        images -= 1
    return images
