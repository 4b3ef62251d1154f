"""Atomic writing of files and folders, a check that a folder can be written, and checksums.

Saved files survive a crash, a full disk and a kill: new contents are written under a temporary name next to the target,
flushed to the disk (fsync) and renamed. A kill may leave a hidden file or folder `.NAME.*.tmp`, which can be deleted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""Errors of fsync of a folder on some disks, and on any disk if the folder may be written but not read."""


def write_atomic(path: Path, contents: str | bytes) -> None:
    """Replace a file atomically; text is UTF-8. If the new file cannot be written, raise OSError and keep the old one."""
    with replacing(path) as new:
        new.write_bytes(contents.encode() if isinstance(contents, str) else contents)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file atomically: the block writes to the path that it is given, an empty file next to `path`.

    At the end of the block the new file is renamed to `path`. If the block raises, the old file is kept and the new one is
    removed. The new file has the permissions of the old one, or else those of the umask. If `path` is a symbolic link, only the
    link is replaced, since its target may belong to another user. OSError if the file cannot be written.
    """
    _check_target(path)
    new = _temporary(path)
    try:
        new.touch(exist_ok=False)
        mode = stat.S_IMODE((path if path.is_file() else new).stat().st_mode)
        yield new
        if stat.S_IMODE(new.stat().st_mode) != mode:  # safetensors makes files that only their owner can read
            new.chmod(mode)
        sync(new)
        os.replace(new, path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


@contextlib.contextmanager
def making_folder(path: Path, new: Path | None = None) -> Iterator[Path]:
    """Make a folder atomically: the block fills the empty folder that it is given, next to `path`.

    At the end of the block the contents are flushed to the disk, and the folder is renamed to `path`. If the block raises, the
    folder is removed. new: the folder's temporary path; default a hidden one. Remains of an earlier process under this path
    are removed first. Raises OSError if the folder cannot be written, and if `path` is a file or a folder that is not empty.
    """
    new = _temporary(path) if new is None else new
    try:
        remove_folder(new)
        new.mkdir(parents=True)
        yield new
        sync_all(new)
        os.rename(new, path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            remove_folder(new)


def remove_folder(folder: Path) -> None:
    """Remove a folder if it exists; if it is a link, remove only the link, since the target may belong to another user."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's entries, are on the disk. OSError if the disk failed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Wait until all files in a folder and its subfolders are on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)
        elif path.is_dir():
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk, if the disk supports this."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def _temporary(path: Path) -> Path:
    """Return a hidden path next to `path` that no other process uses; random, because containers reuse process numbers."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def cache_folder() -> Path:
    """Return the folder of computed files: $LABCORE_CACHE, else labcore/ in the user's cache folder.

    Raises OSError if the user has no home folder.
    """
    if given := os.environ.get("LABCORE_CACHE"):
        return _expanded(given)
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "labcore"


def weights_folder() -> Path:
    """Return the folder of pretrained weights: $LABCORE_WEIGHTS, else weights/ in the cache folder."""
    if given := os.environ.get("LABCORE_WEIGHTS"):
        return _expanded(given)
    return cache_folder() / "weights"


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # a user without an entry in the system's list, and without HOME
        raise OSError(
            f"the folder {path} is not known ({error}); set LABCORE_CACHE to a folder that can be written"
        ) from None


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it if missing; OSError says which folder cannot be made and what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error) from None


def check_writable(folder: Path) -> None:
    """Make `folder` if missing and write a test file to it, before work begins; OSError says what to do."""
    make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        raise _refused(folder, error) from None


def check_file(path: Path) -> None:
    """Check that a file can be written to `path`, before work begins; its folder is made. OSError says what to do."""
    _check_target(path)
    check_writable(path.parent)


def _check_target(path: Path) -> None:
    """Raise OSError if the path is a folder or a device, which a file must not replace."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file, as {path / 'record.json'}")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is a device or a pipe; give the name of a file")


def _refused(folder: Path, error: OSError) -> OSError:
    """Return an OSError that says which folder cannot be written, why, and what to do."""
    cache, given = cache_folder(), os.environ.get("LABCORE_CACHE")
    advice = "give a folder that can be written"
    if folder == cache or cache in folder.parents:
        source = f"LABCORE_CACHE is {given!r}" if given else f"the cache folder is {cache}"
        advice = f"{source}: set LABCORE_CACHE to a folder that can be written"
    return OSError(f"cannot write to {folder} ({error.strerror or error}); {advice}")


def sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(values: Any) -> str:
    """Return the sha256 of JSON values, 64 hex digits; it does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_sizes(folder: Path, sizes: Mapping[str, int]) -> None:
    """Compare files with their sizes in bytes; ValueError names the first that is missing or has another size."""
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if (actual := path.stat().st_size) != size:
            raise ValueError(f"{name} has {actual} bytes instead of {size}")


def check_contents(folder: Path, checksums: Mapping[str, str]) -> None:
    """Compare files with their sha256; ValueError names the first whose contents have changed."""
    for name, expected in checksums.items():
        if sha256(folder / name) != expected:
            raise ValueError(f"the contents of {name} have changed since it was saved (sha256 differs)")
