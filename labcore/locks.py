"""Locks of files between processes: held until they are released or the process ends, for any reason.

The holder writes its process number and host into the lock file, so that messages can name it. The file is not removed when
the lock is released: otherwise two processes could lock two files of the same name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

POLL = 0.05  # seconds between two attempts to take a lock


class Holder(NamedTuple):
    """The process that holds a lock, from its note in the lock file; both values are None without a note."""

    pid: int | None = None
    host: str | None = None

    def __str__(self) -> str:
        return "another process" if self.pid is None else f"pid {self.pid} on {self.host}"


class Held(OSError):
    """Another process, `holder`, holds the lock."""

    def __init__(self, path: str | Path, holder: Holder):
        super().__init__(f"{path} is locked by {holder}; wait for that process or stop it")
        self.holder = holder


@contextlib.contextmanager
def locked(path: str | Path, wait: int | float | None = None) -> Iterator[int]:
    """Hold a lock during the block, which gets the lock's open descriptor. Parameters and errors as `hold`."""
    descriptor = hold(path, wait)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def hold(path: str | Path, wait: int | float | None = None) -> int:
    """Lock a file and return its open descriptor; the lock ends when that is closed in every process that has it open.

    path: the lock file, made if missing; the holder's note replaces its contents, so it must be a file of its own. Or an
        existing folder, in which nothing is written.
    wait: seconds to wait for another holder, None to wait without a limit.

    Raises Held if another process still holds the lock, and another OSError if the file cannot be opened for writing or its
    disk has no locks.
    """
    folder = os.path.isdir(path)
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _take(descriptor, wait):
            raise Held(path, _note(descriptor))
        if not folder:
            sign(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def sign(descriptor: int) -> None:
    """Write this process's number to a lock file that it holds; for a child that got its parent's descriptor."""
    with contextlib.suppress(OSError):  # the note is only for messages: a full disk does not matter
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(Holder(os.getpid(), os.uname().nodename)).encode(), 0)


def holder(path: str | Path) -> Holder | None:
    """Return the process that holds the lock of this file; None if the lock is free, or without a file or locks on its disk.

    The check takes the lock for an instant, so a process that does not wait may fail to take it meanwhile. Raises OSError if
    the file cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(
            descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB
        )  # a shared lock: two processes that check do not disturb each other
    except BlockingIOError:
        return _note(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _take(descriptor: int, wait: int | float | None) -> bool:
    """Lock an open file; return False if another process still holds it after `wait` seconds."""
    if wait is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL)


def _note(descriptor: int) -> Holder:
    """Return the process that a lock file names; a folder, an empty file and other contents name none."""
    with contextlib.suppress(OSError):
        if found := re.fullmatch(rb"pid (\d+) on (\S+)", os.pread(descriptor, 300, 0)):
            return Holder(int(found[1]), found[2].decode(errors="replace"))
    return Holder()
