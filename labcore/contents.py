"""Hashes of files' contents, kept in the cache folder, so that pictures are read once and not at every start.

contents/<hash of the folder's path>.jsonl has one line per file: name, size, times of the last change of the contents and of
the file's entry, hash, and a checksum (CRC-32) of all these. A file is read again if its size or times have changed, or if its
line is damaged. If the cache folder cannot be written, no hashes are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from labcore.files import cache_folder, sha256
from labcore.in_use import note_use, share
from labcore.jsonfile import alone, parse_json
from labcore.progress import show_progress

THREADS = 8
"""Number of files that are read at a time; hashing does not block the interpreter. Our choice."""
TOGETHER = 10_000
"""Number of files after which hashes are written; our choice."""
FRESH = 2_000_000_000
"""Nanoseconds after a change in which a file may change again without a new time; within them its hash is not kept."""


MANY = 1_000
"""Number of files above which progress is shown; our choice."""
READING = "files read once, to recognise the data"
DIGITS = 32
"""Number of hex digits of the sha256 of a file's contents."""


def digests(folder: Path, files: Sequence[str]) -> list[str]:
    """32 hex digits of the sha256 of each file's contents; `files` are relative to `folder`. OSError for a missing one."""
    place = folder.resolve()
    book_path = cache_folder() / "contents" / f"{hashlib.sha256(str(place).encode()).hexdigest()[:16]}.jsonl"
    progress = show_progress() if len(files) > MANY else _silent
    with _book(book_path) as (known, book), ThreadPoolExecutor(THREADS) as pool:
        anything_read = False
        for first in range(0, len(files), TOGETHER):
            stamps = {name: _stamp(place / name) for name in files[first : first + TOGETHER]}
            new = [name for name, stamp in stamps.items() if name not in known or known[name][:3] != stamp]
            hashes = pool.map(lambda name: sha256(place / name)[:DIGITS], new)
            for number, (name, digest) in enumerate(zip(new, hashes, strict=True), 1):
                known[name] = [*stamps[name], digest]
                if book is not None and time.time_ns() - max(stamps[name][1:]) > FRESH:
                    book.write(_line(name, *known[name]))
                progress(READING, first + number, len(files))
            anything_read = anything_read or bool(new)
        if anything_read:
            progress(READING, len(files), len(files))  # also where the last files were known
        return [known[name][3] for name in files]


def _silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


def _stamp(path: Path) -> list[int]:
    """Return the size in bytes, and the times of the last change of contents and of the entry in nanoseconds."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


@contextlib.contextmanager
def _book(path: Path) -> Iterator[tuple[dict[str, list], IO[str] | None]]:
    """Open the known hashes of a folder's files, and the file to which new ones are added, for one process at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        book = open(path, "a+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    except OSError:
        yield {}, None
        return
    with book, alone(path):
        share(book)
        note_use(path)
        book.seek(0)
        yield dict(_lines(book)), book


def _lines(book: IO[str]) -> Iterator[tuple[str, list]]:
    """Yield name, and times with hash, of every undamaged line."""
    for line in book:
        with contextlib.suppress(ValueError, TypeError):
            *values, _ = parse_json(line)
            if line == _line(*values):
                yield values[0], values[1:]


def _line(*values: str | int) -> str:
    """Return a line with these values and their checksum."""
    return json.dumps([*values, zlib.crc32(json.dumps(values).encode())]) + "\n"
