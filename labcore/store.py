"""Arrays on disk that are computed in chunks, once, by one process or several.

Features, samples and latents of many images take minutes to days and do not fit in memory. A store is a folder that is named by
a hash of its key, the values that determine the rows. It has one memory-mapped .npy file per array, and a mark for each
complete chunk. A killed run continues where it was, processes of one launch share the chunks, and later calls with the same key
find the rows. The key determines the chunks, so rows never depend on how the work was shared.

The mark of a chunk holds a checksum of its rows. Every store is compared with its checksums when it is opened; chunks whose
rows have changed are computed again. A process that uses a store holds shared locks on its files (`labcore.in_use`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labcore import in_use
from labcore.arrayfile import OpenRows, allocate, checksum, is_whole, map_privately, put_rows
from labcore.files import make_folder, replacing, sha256_of
from labcore.in_use import KEY
from labcore.jsonfile import read_object
from labcore.locks import locked
from labcore.processes import process_share
from labcore.progress import Progress

DONE, REPAIR = "done.npy", "repair.lock"
LAYOUT = 2
"""Version of the files of a store, a part of its key. 2: marks hold checksums."""
MARKED = 1 << 32
"""The bit of a mark for a complete chunk; the 32 bits below it are the checksum of the chunk's rows."""
POLL = 0.2  # seconds between checks of the other processes' chunks
PATIENCE = 600.0  # seconds without a new chunk until a warning


class Rows(NamedTuple):
    """One array of a store: the shape of a row and its dtype."""

    shape: tuple[int, ...]
    dtype: str


def _whole_key(key: Mapping[str, Any], rows: int, arrays: Mapping[str, Rows], chunk: int) -> dict[str, Any]:
    layout = {array: [list(shape), dtype] for array, (shape, dtype) in arrays.items()}
    fixed = {"store": LAYOUT, "rows": rows, "chunk": chunk, "arrays": layout}
    return json.loads(json.dumps({**key, **fixed}, sort_keys=True))


def is_there(root: Path, name: str, key: Mapping[str, Any], rows: int, arrays: Mapping[str, Rows], chunk: int) -> bool:
    """Return whether the folder exists that `Store` makes or opens with these arguments."""
    return (Path(root) / f"{name}-{sha256_of(_whole_key(key, rows, arrays, chunk))[:16]}").is_dir()


class Store:
    """`rows` rows of the named arrays, in chunks of `chunk` rows, under `root`/`name`-<hash of key>.

    key: JSON values that determine the rows, with the version of the code that computes them; shapes, rows and chunk are added
    to it. If files are missing or have the wrong size, they are made again, and all rows are computed again. If the rows of a
    chunk have changed, only these are computed again. A warning says so. Raises ValueError for a folder with another key or an
    unreadable one, and OSError at once if the disk has no room for all rows.
    """

    def __init__(
        self, root: Path, name: str, key: Mapping[str, Any], rows: int, arrays: Mapping[str, Rows], chunk: int
    ):
        if rows < 1 or chunk < 1:
            raise ValueError(f"rows={rows}, chunk={chunk}: a store has at least 1 row and chunks of at least 1")
        self.key = _whole_key(key, rows, arrays, chunk)
        self.rows, self.chunk, self.name = rows, chunk, name
        self.folder = Path(root) / f"{name}-{sha256_of(self.key)[:16]}"
        self._files = {array: self.folder / f"{array}.npy" for array in sorted(arrays)}
        self._layout = {self._files[array]: Rows((rows, *shape), dtype) for array, (shape, dtype) in arrays.items()}
        self._layout[self.folder / DONE] = Rows((-(-rows // chunk),), "uint64")
        weakref.finalize(self, self._hold().close)
        if self._read_key() != self.key:
            raise ValueError(f"{self.folder} holds rows of another key; remove the folder, or give another one")
        if self._damaged():
            self._repair()
        if self._changed():
            self._forget_changed()
        in_use.note_use(self.folder)

    def _hold(self) -> IO[bytes]:
        """Open the key's file under a shared lock, after making the store if there is none."""
        while True:
            folder_exists = self.folder.is_dir()
            try:
                return in_use.open_shared(self.folder / KEY)
            except (FileNotFoundError, NotADirectoryError):
                if folder_exists and in_use.remove(
                    self.folder
                ):  # a store always appears with its key, so this is the rest of a store
                    warnings.warn(
                        f"{self.folder} had no {KEY} and was removed; its rows are computed again", stacklevel=4
                    )
                self._create()

    def _read_key(self) -> Any:
        return read_object(self.folder / KEY, "remove the folder, and its rows are computed again")

    def _damaged(self) -> list[Path]:
        """List the files that are missing or have another shape, dtype or size than when they were made."""
        return [path for path, want in self._layout.items() if not is_whole(path, *want)]

    def _repair(self) -> None:
        """Make damaged files again, with no chunk marked as complete; one process at a time.

        The marks are replaced first, by a new file, so a process that still writes to an old file sets no mark in it.
        """
        with locked(self.folder / REPAIR):
            for left in self.folder.glob(
                ".*.tmp"
            ):  # by a repair that was killed: only the holder of this lock writes them
                left.unlink()
            damaged = self._damaged()
            if not damaged:  # another process was first
                return
            names = ", ".join(path.name for path in damaged)
            warnings.warn(f"{self.folder}: {names} missing or damaged; its rows are computed again", stacklevel=3)
            marks = self.folder / DONE
            other_files = [path for path in damaged if path != marks]
            for path in [marks, *other_files]:
                with replacing(path) as new:
                    allocate(new, *self._layout[path])

    def _changed(self) -> list[int]:
        """List complete chunks whose rows have changed. Marks are read before rows, because they are set after rows."""
        marks = self._marks()
        complete = np.flatnonzero(marks).tolist()
        with contextlib.ExitStack() as stack:
            files = [OpenRows.of(stack.enter_context(open(path, "rb"))) for path in self._files.values()]
            return [i for i in complete if marks[i] != MARKED | checksum(files, self._range(i))]

    def _forget_changed(self) -> None:
        """Remove the marks of chunks whose rows have changed; one process at a time, so that no new mark is removed."""
        with locked(self.folder / REPAIR):
            changed = self._changed()
            if not changed:  # another process was first
                return
            first, last = self._range(changed[0]).start, self._range(changed[-1]).stop - 1
            warnings.warn(
                f"{self.folder}: {len(changed)} of {-(-self.rows // self.chunk)} chunks, in rows {first} to {last}, have "
                "changed since they were written (checksums differ); they are computed again",
                stacklevel=3,
            )
            with open(self.folder / DONE, "r+b", buffering=0) as marks:
                for i in changed:
                    put_rows(marks, i, np.zeros(1, "uint64"))

    def _create(self) -> None:
        """Make all files at their full size, in a folder that appears atomically; of several creators the first one wins.

        The key's file is locked before it has content. So a folder with a key and without a lock was left by a killed process.
        """
        make_folder(self.folder.parent)
        in_use.clean(self.folder.parent)
        new = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))
        try:
            with open(new / KEY, "wb") as key:
                in_use.share(key)
                key.write(json.dumps(self.key, indent=2).encode() + b"\n")
                key.flush()
                for path, (shape, dtype) in self._layout.items():
                    allocate(new / path.name, shape, dtype)
                new.chmod(0o755)
                os.rename(new, self.folder)
        except OSError:
            if not (self.folder / KEY).is_file():  # not because another process was first
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def __getitem__(self, array: str) -> Tensor:
        """Return the rows of one array, mapped from the file and not read into memory; changes to them stay in memory.

        The map holds a shared lock on the file as long as the tensor lives.
        """
        return torch.from_numpy(map_privately(self._files[array]))

    @property
    def done(self) -> int:
        """Number of complete rows."""
        marks = self._marks() != 0
        lacking = len(marks) * self.chunk - self.rows  # in the last chunk
        return int(marks.sum()) * self.chunk - int(marks[-1]) * lacking

    @property
    def complete(self) -> bool:
        return bool(self._marks().all())

    def _marks(self) -> np.ndarray:
        """Read the marks from the disk, because processes on other machines set theirs; complete chunks are not 0."""
        return np.load(self.folder / DONE)

    def fill(
        self,
        compute: Callable[[range], Mapping[str, Tensor]],
        progress: Progress | None = None,
        rank: int | None = None,
        world: int | None = None,
    ) -> Store:
        """Compute this process's share of the missing chunks, and wait for those of all other processes. Returns self.

        compute: called with a range of rows; returns a tensor (len(range), *row shape) for each array. rank, world: share of
        this process; default its share of the launch (`process_share`).
        """
        return self.fill_in_turn(lambda parts: map(compute, parts), progress, rank, world)

    def fill_in_turn(
        self,
        compute: Callable[[Sequence[range]], Iterable[Mapping[str, Tensor]]],
        progress: Progress | None = None,
        rank: int | None = None,
        world: int | None = None,
    ) -> Store:
        """As `fill`, with a function that gets all of its ranges at once and yields the rows of each, so it can read ahead."""
        own_rank, own_world = process_share()
        rank = own_rank if rank is None else rank
        world = own_world if world is None else world
        missing = np.flatnonzero(self._marks() == 0).tolist()
        if progress is not None and missing:
            progress(self.name, self.done, self.rows)
        own_chunks = [i for i in missing if i % world == rank]
        parts = [self._range(i) for i in own_chunks]
        with contextlib.ExitStack() as stack:
            files = {}
            if own_chunks:
                files = {path: stack.enter_context(open(path, "r+b", buffering=0)) for path in self._layout}
            for i, part, values in zip(own_chunks, parts, compute(parts) if parts else (), strict=True):
                mark = MARKED | self._write(files, part, values)
                put_rows(files[self.folder / DONE], i, np.array([mark], "uint64"))
                if progress is not None:
                    progress(self.name, self.done, self.rows)
        if world > 1:
            self._wait(progress)
        return self

    def _write(self, files: Mapping[Path, Any], part: range, values: Mapping[str, Tensor]) -> int:
        """Write the rows of a chunk to every array's file and to the disk; return their checksum (zlib's CRC-32)."""
        crc = 0
        for array, path in self._files.items():
            rows = values[array].detach().cpu().numpy()
            shape = (len(part), *self._layout[path].shape[1:])
            if rows.shape != shape:
                raise ValueError(f"{self.name}: rows of {array!r} have shape {rows.shape}, not {shape}")
            rows = np.ascontiguousarray(rows.astype(self._layout[path].dtype, copy=False))
            put_rows(files[path], part.start, rows)
            crc = zlib.crc32(rows.reshape(-1).view("uint8"), crc)
        return crc

    def _wait(self, progress: Progress | None) -> None:
        """Wait until the chunks of all other processes are complete; warn if no new chunk comes for long."""
        last_done, last_change, warned = -1, time.monotonic(), False
        while not self.complete:
            time.sleep(POLL)
            done = self.done
            if progress is not None:
                progress(self.name, done, self.rows)
            if done != last_done:
                last_done, last_change = done, time.monotonic()
            elif not warned and time.monotonic() - last_change > PATIENCE:
                warned = True
                warnings.warn(
                    f"waiting for the other processes' rows in {self.folder}, {done} of {self.rows} for {PATIENCE:g} s now. "
                    "One of them may be measuring; if none is, all machines must see one folder as LABCORE_CACHE",
                    stacklevel=3,
                )

    def _range(self, i: int) -> range:
        return range(i * self.chunk, min((i + 1) * self.chunk, self.rows))
