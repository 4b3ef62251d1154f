"""Arrays on disk that are computed in chunks, by one process or several, and never twice.

Features, samples and latents of many images take minutes to days and do not fit in memory. A store is a folder named by a
hash of its key (what the rows are a function of), with one memory-mapped .npy file an array and a mark for each chunk that
is complete. A run that was killed goes on where it was; processes of one launch share the chunks; whoever asks with the
same key later finds the rows. Chunks are fixed by the key, so rows never depend on how the work was shared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labcore.files import make_folder, making_folder, replacing
from labcore.jsonfile import read_object
from labcore.locks import locked
from labcore.processes import process_share
from labcore.progress import Progress

KEY, DONE, LOCK = "key.json", "done.npy", ".lock"
POLL = 0.2  # seconds between looks at the other processes' chunks
PATIENCE = 600.0  # seconds without a new one until a warning
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's; Python names it since 3.13


class Rows(NamedTuple):
    """One array of a store: the shape of a row and its dtype."""

    shape: tuple[int, ...]
    dtype: str


class Store:
    """`rows` rows of the named arrays, in chunks of `chunk` rows, under `root`/`name`-<hash of key>.

    key: everything that the rows are a function of, JSON values; shapes, rows and chunk are added to it. Files that are
    missing or of the wrong size are made anew, all rows computed again, and a warning says so. Raises ValueError for a
    folder that holds another key or none that can be read, OSError at once where the disk has no room for all rows.
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
        self._files = {array: self.folder / f"{array}.npy" for array in arrays}
        self._layout = {self._files[array]: Rows((rows, *shape), dtype) for array, (shape, dtype) in arrays.items()}
        self._layout[self.folder / DONE] = Rows((-(-rows // chunk),), "uint8")
        if not (self.folder / KEY).is_file():
            self._create()
        if self._read_key() != self.key:
            raise ValueError(f"{self.folder} holds rows of another key; remove the folder, or give another one")
        if self._damaged():
            self._repair()

    def _read_key(self) -> Any:
        return read_object(self.folder / KEY, "remove the folder, and its rows are computed again")

    def _damaged(self) -> list[Path]:
        """Files that are missing, or are not of the shape, dtype and size that they had when they were made."""
        return [path for path, want in self._layout.items() if not _is_whole(path, *want)]

    def _repair(self) -> None:
        """Damaged files anew, and no chunk marked as complete. One process at a time; the marks go first, in a new file, so
        that a process which still writes to an old file marks nothing here."""
        with locked(self.folder / LOCK):
            damaged = self._damaged()
            if not damaged:  # another process was first
                return
            names = ", ".join(path.name for path in damaged)
            warnings.warn(f"{self.folder}: {names} missing or damaged; its rows are computed again", stacklevel=3)
            marks = self.folder / DONE
            for path in [marks, *(path for path in damaged if path != marks)]:
                with replacing(path) as new:
                    _allocate(new, *self._layout[path])

    def _create(self) -> None:
        """All files at their full size, in a folder that appears at once; of several creators the first one wins."""
        make_folder(self.folder.parent)
        try:
            with making_folder(self.folder) as new:
                for path, (shape, dtype) in self._layout.items():
                    _allocate(new / path.name, shape, dtype)
                (new / KEY).write_text(json.dumps(self.key, indent=2) + "\n")
        except OSError:
            if not (self.folder / KEY).is_file():  # not because another process was first
                raise

    def __getitem__(self, array: str) -> Tensor:
        """The rows of one array, mapped from the file, not read into memory; what is written to them stays in memory."""
        return torch.from_numpy(_private(self._files[array]))

    @property
    def done(self) -> int:
        """Rows that are complete."""
        marks = self._marks()
        lacking = len(marks) * self.chunk - self.rows  # in the last chunk
        return int(marks.sum()) * self.chunk - int(marks[-1]) * lacking

    @property
    def complete(self) -> bool:
        return bool(self._marks().all())

    def _marks(self) -> np.ndarray:
        """1 for each chunk that is complete, read anew: other processes, on other machines too, mark theirs."""
        return np.load(self.folder / DONE)

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
        return self.fill_in_turn(lambda parts: map(compute, parts), progress, rank, world)

    def fill_in_turn(
        self,
        compute: Callable[[Sequence[range]], Iterable[Mapping[str, Tensor]]],
        progress: Progress | None = None,
        rank: int | None = None,
        world: int | None = None,
    ) -> Store:
        """`fill` by a function that hears all its ranges at once and gives what belongs to each, in order, so that it can
        read ahead."""
        own_rank, own_world = process_share()
        rank, world = own_rank if rank is None else rank, own_world if world is None else world
        missing = np.flatnonzero(self._marks() == 0).tolist()
        if progress is not None and missing:
            progress(self.name, self.done, self.rows)
        mine = [i for i in missing if i % world == rank]
        with contextlib.ExitStack() as stack:
            files = {path: stack.enter_context(open(path, "r+b", buffering=0)) for path in self._layout} if mine else {}
            parts = [self._range(i) for i in mine]
            for i, part, values in zip(mine, parts, compute(parts) if parts else (), strict=True):
                self._write(files, part, values)
                _put(files[self.folder / DONE], i, np.ones(1, "uint8"))
                if progress is not None:
                    progress(self.name, self.done, self.rows)
        if world > 1:
            self._wait(progress)
        return self

    def _write(self, files: Mapping[Path, Any], part: range, values: Mapping[str, Tensor]) -> None:
        """Rows of a chunk into every array's file, on disk when this returns."""
        for array, path in self._files.items():
            rows, shape = values[array].detach().cpu().numpy(), (len(part), *self._layout[path].shape[1:])
            if rows.shape != shape:
                raise ValueError(f"{self.name}: rows of {array!r} have shape {rows.shape}, not {shape}")
            _put(files[path], part.start, rows.astype(self._layout[path].dtype, copy=False))

    def _wait(self, progress: Progress | None) -> None:
        """Until the other processes' chunks are there; a warning where nothing comes for long."""
        seen, since, told = -1, time.monotonic(), False
        while not self.complete:
            time.sleep(POLL)
            done = self.done
            if progress is not None:
                progress(self.name, done, self.rows)
            if done != seen:
                seen, since = done, time.monotonic()
            elif not told and time.monotonic() - since > PATIENCE:
                told = True
                warnings.warn(
                    f"waiting for the other processes' rows in {self.folder}, {done} of {self.rows} for {PATIENCE:g} s now. "
                    "One of them may be measuring; if none is, all machines must see one folder as LABCORE_CACHE",
                    stacklevel=3,
                )

    def remove(self) -> None:
        """Delete the rows from disk."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _range(self, i: int) -> range:
        return range(i * self.chunk, min((i + 1) * self.chunk, self.rows))


def _put(file: Any, first: int, rows: np.ndarray) -> None:
    """Rows from `first` on into an open .npy file, and nothing beside them: not by a map, whose whole pages machines that
    share a disk would write over each other's."""
    file.seek(0)
    _header(file)
    begin, data = (
        file.tell() + first * rows[:1].nbytes,
        memoryview(np.ascontiguousarray(rows).reshape(-1).view("uint8")),
    )
    while data:
        written = os.pwrite(file.fileno(), data, begin)
        begin, data = begin + written, data[written:]
    os.fsync(file.fileno())


def _is_whole(path: Path, shape: tuple[int, ...], dtype: str) -> bool:
    """Whether a .npy file is there with this shape and dtype, and as long as its header says."""
    try:
        with open(path, "rb") as file:
            found = _header(file)
            size = os.fstat(file.fileno()).st_size
            return found == (shape, np.dtype(dtype)) and size == file.tell() + math.prod(shape) * found[1].itemsize
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return False


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an open .npy file, which is left where its values begin. Raises ValueError for any other file."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran:
        raise ValueError("columns come first")
    return shape, dtype


def _private(path: Path) -> np.ndarray:
    """A .npy file mapped so that writing changes this process's pages alone; reserves no memory for the whole of it."""
    with open(path, "rb") as file:
        shape, dtype = _header(file)
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return np.frombuffer(pages, dtype, math.prod(shape), file.tell()).reshape(shape)


def _allocate(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """A .npy file of zeros whose bytes are on disk: a full disk is an OSError now and not a crash later."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    array.flush()
    del array
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
