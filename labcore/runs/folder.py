"""Functions on a run's folder: make it, check it, write its configuration, and remove it if it stayed empty."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from labcore.config import BaseRunConfig
from labcore.files import check_writable, write_atomic
from labcore.processes import is_first_process
from labcore.train import checkpoint
from labcore.yamlfile import dump_yaml

CONFIG = "config.yaml"


def write_config(config: BaseRunConfig, folder: Path) -> None:
    """Write config.yaml, the run's whole configuration; an older file is replaced atomically."""
    write_atomic(folder / CONFIG, dump_yaml(config.model_dump(mode="json")))


def check_new(folder: Path) -> None:
    """Raise ValueError for a folder that is not empty, and for a file."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is a file, or not empty; give a new folder")


@contextlib.contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and check that it can be written (`check_writable`).

    If the work inside raises, folders that were made here and are still empty are removed.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        check_writable(folder)
        yield
    except BaseException:
        if is_first_process():
            remove_empty(new)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the empty ones of `folders`, the innermost first; the lock of a training that has ended does not count."""
    for folder in folders:
        try:
            if [path.name for path in folder.iterdir()] == [checkpoint.LOCK]:
                with checkpoint.lock_folder(folder):  # OSError if another training has begun here
                    (folder / checkpoint.LOCK).unlink()
            folder.rmdir()
        except OSError:  # it holds something, or is gone
            return
