"""Arrays on disk that are computed in chunks, by one process or several, and never twice.

Features, samples and latents of many images take minutes to days and do not fit in memory. A store is a folder named by a
hash of its key (what the rows are a function of), with one memory-mapped .npy file an array and a mark for each chunk that
is complete. A run that was killed goes on where it was; processes of one launch share the chunks; whoever asks with the
same key later finds the rows. Chunks are fixed by the key, so rows never depend on how the work was shared.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Progress = Callable[[str, int, int], None]
"""progress(what, rows done, rows in all), called as chunks complete."""

KEY, DONE = "key.json", "done.npy"
POLL = 0.2  # seconds between looks at the other processes' chunks


class Rows(NamedTuple):
    """One array of a store: the shape of a row and its dtype."""

    shape: tuple[int, ...]
    dtype: str


def cache_folder() -> Path:
    """Where stores live unless told otherwise: $LABCORE_CACHE, else labcore/ in the user's cache folder."""
    if given := os.environ.get("LABCORE_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "labcore"


def process_share() -> tuple[int, int]:
    """(rank, world) of this process in a launch by torch's launcher; (0, 1) outside of one."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class Store:
    """`rows` rows of the named arrays, in chunks of `chunk` rows, under `root`/`name`-<hash of key>.

    key: everything that the rows are a function of, JSON values; shapes, rows and chunk are added to it. Raises ValueError
    for a folder that holds another key, OSError at once where the disk has no room for all rows.
    """

    def __init__(
        self, root: Path, name: str, key: Mapping[str, Any], rows: int, arrays: Mapping[str, Rows], chunk: int
    ):
        if rows < 1 or chunk < 1:
            raise ValueError(f"rows={rows}, chunk={chunk}: a store has at least 1 row and chunks of at least 1")
        layout = {array: [list(shape), dtype] for array, (shape, dtype) in arrays.items()}
        self.key = json.loads(json.dumps({**key, "rows": rows, "chunk": chunk, "arrays": layout}, sort_keys=True))
        self.rows, self.chunk, self.name = rows, chunk, name
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(root) / f"{name}-{digest}"
        if not (self.folder / KEY).is_file():
            self._create(arrays)
        if json.loads((self.folder / KEY).read_text()) != self.key:
            raise ValueError(f"{self.folder} holds rows of another key; remove the folder, or give another one")
        self._files = {array: self.folder / f"{array}.npy" for array in arrays}
        self._done = np.load(self.folder / DONE, mmap_mode="r+")

    def _create(self, arrays: Mapping[str, Rows]) -> None:
        """All files at their full size, in a folder that appears at once; of several creators the first one wins."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))
        try:
            for array, (shape, dtype) in arrays.items():
                _allocate(new / f"{array}.npy", (self.rows, *shape), dtype)
            _allocate(new / DONE, (-(-self.rows // self.chunk),), "uint8")
            (new / KEY).write_text(json.dumps(self.key, indent=2) + "\n")
            new.chmod(0o755)
            os.rename(new, self.folder)
        except OSError:
            if not (self.folder / KEY).is_file():  # not because another process was first
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def __getitem__(self, array: str) -> Tensor:
        """The rows of one array, mapped from the file, not read into memory; meant for reading."""
        return torch.from_numpy(np.load(self._files[array], mmap_mode="r+"))

    @property
    def done(self) -> int:
        """Rows that are complete."""
        return sum(len(self._range(i)) for i in np.flatnonzero(self._done).tolist())

    @property
    def complete(self) -> bool:
        return bool(self._done.all())

    def fill(
        self,
        compute: Callable[[range], Mapping[str, Tensor]],
        progress: Progress | None = None,
        rank: int | None = None,
        world: int | None = None,
    ) -> Store:
        """Compute the chunks that are missing, this process's share of them, and wait for the others'. Returns self.

        compute(range of rows) gives a tensor (len(range), *row shape) for each array. rank, world: default, the launch
        that this process is part of (`process_share`).
        """
        own_rank, own_world = process_share()
        rank, world = own_rank if rank is None else rank, own_world if world is None else world
        missing = [i for i in range(len(self._done)) if not self._done[i]]
        if progress is not None and missing:
            progress(self.name, self.done, self.rows)
        maps = {array: np.load(path, mmap_mode="r+") for array, path in self._files.items()} if missing else {}
        for i in missing:
            if i % world != rank:
                continue
            part = self._range(i)
            values = compute(part)
            for array, target in maps.items():
                rows = values[array].detach().cpu().numpy()
                if rows.shape != (len(part), *target.shape[1:]):
                    raise ValueError(
                        f"{self.name}: rows of {array!r} have shape {rows.shape}, not {(len(part), *target.shape[1:])}"
                    )
                target[part.start : part.stop] = rows
                target.flush()
            self._done[i] = 1
            self._done.flush()
            if progress is not None:
                progress(self.name, self.done, self.rows)
        while world > 1 and not self.complete:
            time.sleep(POLL)
            if progress is not None:
                progress(self.name, self.done, self.rows)
        return self

    def remove(self) -> None:
        """Delete the rows from disk."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _range(self, i: int) -> range:
        return range(i * self.chunk, min((i + 1) * self.chunk, self.rows))


def _allocate(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """A .npy file of zeros whose bytes are on disk: a full disk is an OSError now and not a crash later."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    array.flush()
    del array
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
