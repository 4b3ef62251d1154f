"""Files of one array in numpy's .npy format: made at full size, written by rows, mapped, and compared with checksums."""

from __future__ import annotations

import math
import mmap
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from labcore import in_use

NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's; Python names it since 3.13
PIECE = 1 << 24  # bytes read at a time


class OpenRows(NamedTuple):
    """An open .npy file: where its values begin, and the bytes of one row."""

    file: IO[bytes]
    begin: int
    row: int

    @classmethod
    def of(cls, file: IO[bytes]) -> OpenRows:
        shape, dtype = read_header(file)
        return cls(file, file.tell(), math.prod(shape[1:]) * dtype.itemsize)


def checksum(files: Iterable[OpenRows], rows: range) -> int:
    """Return the CRC-32 of some rows of all files, one file after the other."""
    found = 0
    for file, begin, row in files:
        at, end = begin + rows.start * row, begin + rows.stop * row
        while at < end and (data := os.pread(file.fileno(), min(PIECE, end - at), at)):
            found, at = zlib.crc32(data, found), at + len(data)
    return found


def put_rows(file: Any, first: int, rows: np.ndarray) -> None:
    """Write rows, from row `first` on, to an open .npy file, and no other bytes.

    A memory map is not used, because it writes whole pages: machines that share a disk would overwrite each other's rows.
    """
    file.seek(0)
    read_header(file)
    begin, data = (
        file.tell() + first * rows[:1].nbytes,
        memoryview(np.ascontiguousarray(rows).reshape(-1).view("uint8")),
    )
    while data:
        written = os.pwrite(file.fileno(), data, begin)
        begin, data = begin + written, data[written:]
    os.fsync(file.fileno())


def is_whole(path: Path, shape: tuple[int, ...], dtype: str) -> bool:
    """Return whether a .npy file exists with this shape and dtype, and with the length that its header requires."""
    try:
        with open(path, "rb") as file:
            found = read_header(file)
            size = os.fstat(file.fileno()).st_size
            return found == (shape, np.dtype(dtype)) and size == file.tell() + math.prod(shape) * found[1].itemsize
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return False


def read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of an open .npy file, and move to the start of its values. ValueError for any other file."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran:
        raise ValueError("columns come first")
    return shape, dtype


def map_privately(path: Path) -> np.ndarray:
    """Map a .npy file so that writing changes only this process's pages; no memory is reserved for the whole file."""
    with open(path, "rb") as file:
        in_use.share(file)  # the map has a copy of the descriptor, and so keeps the lock
        shape, dtype = read_header(file)
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return np.frombuffer(pages, dtype, math.prod(shape), file.tell()).reshape(shape)


def allocate(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Make a .npy file of zeros whose bytes are on disk, so that a full disk is an OSError now and not a crash later."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    array.flush()
    del array
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
