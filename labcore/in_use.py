"""Shared locks that show which cached files live processes use, and the removal of unused files.

A process holds a shared lock on each file that it works with or has mapped. The lock ends with the process, for any reason. A
file or folder is removed only under exclusive locks on all of its files. Half-written files of a killed process have a
temporary name and no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

KEY = "key.json"
"""The file in a store's folder that is locked by every process that makes or uses the store."""
GRACE = 60.0
"""Seconds in which the maker of a temporary folder must take its lock, which takes milliseconds; our choice."""
HOUR = 3600.0
"""Seconds without a change after which a temporary file counts as left behind: writers hold no lock, but need only seconds."""
FOLDER = re.compile(r"\.(.+-)?[0-9a-f]{16}-[a-z0-9_]{8}")
"""Names of folders that are being made or removed."""
FILE = re.compile(r".+\.([0-9a-f]{8}|\d+)\.tmp")
"""Names of files that are being written: 8 hexadecimal digits, in earlier versions the process's number, before the end."""

_FOREVER: dict[Path, IO[bytes]] = {}


def share(file: IO[Any]) -> None:
    """Take a shared lock that lasts as long as the file, or a memory map of it, is open.

    Waits for a process that removes the file. On a disk without locks, no lock is taken.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH)


def open_shared(path: Path) -> IO[bytes]:
    """Open a file for reading under a shared lock. FileNotFoundError if it is missing or was removed meanwhile."""
    while True:
        file = open(path, "rb")  # noqa: SIM115
        try:
            share(file)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # another file has this name now


def keep_open(path: Path) -> None:
    """Hold a shared lock on a file until this process ends; do nothing if the file is missing."""
    if path not in _FOREVER:
        with contextlib.suppress(FileNotFoundError):
            _FOREVER[path] = open_shared(path)


def note_use(path: Path) -> None:
    """Set a file's or folder's time of change to now; `lab cache` takes it as the last use."""
    with contextlib.suppress(OSError):
        os.utime(path)


def remove(path: Path) -> bool:
    """Delete a file or folder; return False, without deleting, if a live process uses a file of it.

    A folder gets a temporary name first, so that no process finds a part of it. Raises OSError if the disk refuses.
    """
    with contextlib.ExitStack() as locks:
        if not _lock(files_of(path), locks):
            return False
        if not path.is_dir():
            path.unlink()
            return True
        hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        os.rename(path, hidden)
        shutil.rmtree(hidden)
    return True


def is_used(path: Path) -> bool:
    """Return whether a live process holds a lock on this file, or on a file in this folder."""
    with contextlib.ExitStack() as locks:
        return not _lock(files_of(path), locks)


def left_behind(root: Path) -> list[Path]:
    """List temporary files and folders directly in `root` whose makers have ended."""
    return [path for path in _inside(root) if _is_abandoned(path)]


def clean(root: Path) -> list[Path]:
    """Delete the files and folders of `left_behind`, and return them; those that cannot be deleted are kept."""
    removed = []
    for path in left_behind(root):
        with contextlib.suppress(OSError):
            if remove(path):
                removed.append(path)
    return removed


def files_of(path: Path) -> list[Path]:
    """List the file itself or all files in the folder, after the lock file next to it (name.lock) if there is one.

    A process that locks the files in this order, and stops at the first that is held, takes no lock inside a folder that is
    being made.
    """
    inside = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()] if path.is_dir() else [path]
    lock_file = path.with_name(f"{path.name}.lock")
    return [lock_file, *inside] if lock_file.is_file() else inside


def _lock(files: Sequence[Path], locks: contextlib.ExitStack) -> bool:
    """Take exclusive locks on all files; return False if one is held, is missing, or cannot be locked."""
    try:
        for path in files:
            file = open(path, "r+b")  # noqa: SIM115
            locks.callback(file.close)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_abandoned(path: Path) -> bool:
    """Return whether the maker of a temporary file or folder has ended, judged by name, age and locks.

    The maker of a store's folder locks the key file before it writes to it.
    """
    try:
        if FOLDER.fullmatch(path.name) and path.is_dir():
            key = path / KEY
            needed = 0.0 if key.is_file() and key.stat().st_size else GRACE
        elif FILE.fullmatch(path.name) and path.is_file():
            needed = HOUR
        else:
            return False
        return time.time() - path.stat().st_mtime >= needed and not is_used(path)
    except OSError:  # gone meanwhile
        return False
