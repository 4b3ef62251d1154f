"""A run's folder: made, checked, named by its configuration, and removed again where nothing came into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from labcore.config import BaseRunConfig
from labcore.files import check_writable, write_atomic
from labcore.processes import process_share
from labcore.train import checkpoint
from labcore.yamlfile import dump_yaml

CONFIG = "config.yaml"


def write_config(config: BaseRunConfig, folder: Path) -> None:
    """Write config.yaml, the run's whole configuration; what was there is replaced at once."""
    write_atomic(folder / CONFIG, dump_yaml(config.model_dump(mode="json")))


def check_new(folder: Path) -> None:
    """ValueError for a folder that holds something, or is a file."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is a file, or not empty; give a new folder")


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """A folder that can be written (`check_writable`) for what may still be refused.

    Where the work inside raises, folders that were made here and are still empty are removed.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        check_writable(folder)
        yield
    except BaseException:
        if process_share()[0] == 0:
            remove_empty(new)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of `folders`, the innermost first, that are empty but for the lock of a training that has ended."""
    for folder in folders:
        try:
            if [path.name for path in folder.iterdir()] == [checkpoint.LOCK]:
                with checkpoint.lock_folder(folder):  # OSError where another training has begun here
                    (folder / checkpoint.LOCK).unlink()
            folder.rmdir()
        except OSError:  # it holds something, or is gone
            return
