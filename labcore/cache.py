"""Contents of the lab's cache folder by kind, and choice and removal of entries.

An entry is found, and made again, as a whole: a store's folder, a run's folder, or one file. Removing an entry costs only the
time to make it again. Weights that the user put there are not entries.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from labcore import in_use
from labcore.files import cache_folder
from labcore.hints import nearest

KINDS = {
    "samples": "images drawn for evaluation",
    "features": "encoders' features of data sets",
    "latents": "autoencoders' latents of data sets",
    "hiddens": "hidden features of flows, for probes",
    "fidelity": "features for FID and the like",
    "statistics": "reference statistics for FID and the like",
    "teachers": "flows trained for experiments, with their checkpoints",
    "solvers": "calibrations of the exact inverse",
    "contents": "hashes of data sets' files",
    "native": "compiled code",
}
"""Sub-folder of the cache folder -> its contents, in words."""
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
DAY = 86400.0


class Entry(NamedTuple):
    """kind: one of `KINDS`. size: bytes of all files. used: last use, seconds since 1970. live: a process uses it now."""

    kind: str
    path: Path
    size: int
    used: float
    live: bool


class Pruned(NamedTuple):
    """Entries that were deleted, entries that a live process uses, and entries that the disk did not let go."""

    deleted: list[Entry]
    kept: list[Entry]
    failed: list[Entry]


def entries(kinds: Iterable[str] = tuple(KINDS)) -> list[Entry]:
    """List all entries of these kinds, sorted by name within a kind. Links are not followed, and are not entries."""
    found = []
    for kind in kinds:
        folder = cache_folder() / kind
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        found += [_entry(kind, path) for path in paths if not _is_aside(path)]
    return [entry for entry in found if entry is not None]


def left_behind() -> list[Entry]:
    """List the half-written files and folders of killed processes, for all kinds."""
    found = [_entry(kind, path) for kind in KINDS for path in in_use.left_behind(cache_folder() / kind)]
    return [entry for entry in found if entry is not None]


def choose(
    found: Sequence[Entry], older_than: float | None = None, max_size: float | None = None, now: float | None = None
) -> list[Entry]:
    """Return the entries to delete, the least recently used ones first.

    older_than: days since the last use. max_size: bytes that may remain. With both, older entries are chosen, and more of them
    if the rest is too large; with neither, all entries. Entries in use count towards the size, and are never chosen.
    """
    by_age = sorted(found, key=lambda entry: entry.used)
    now = time.time() if now is None else now
    remaining, chosen = sum(entry.size for entry in found), []
    for entry in by_age:
        old = older_than is not None and now - entry.used > older_than * DAY
        large = max_size is not None and remaining > max_size
        everything = older_than is None and max_size is None
        if not entry.live and (old or large or everything):
            chosen.append(entry)
            remaining -= entry.size
    return chosen


def prune(chosen: Sequence[Entry]) -> Pruned:
    """Delete entries, except those that a live process has taken into use meanwhile."""
    done = Pruned([], [], [])
    for entry in chosen:
        try:
            (done.deleted if in_use.remove(entry.path) else done.kept).append(entry)
        except FileNotFoundError:  # another process deleted it
            continue
        except OSError:
            done.failed.append(entry)
    return done


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ValueError for an unknown kind."""
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"--kind was {kind!r}; allowed are {', '.join(KINDS)}{nearest(kind, KINDS)}")


def parse_size(text: str) -> float:
    """Return the bytes of a size such as 500MB or 1.5 TB; ValueError for other text."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(kB|MB|GB|TB)", text.strip())
    if not found:
        raise ValueError(f"--max-size was {text!r}; give a number with {', '.join(UNITS)}, as 20GB")
    return float(found[1]) * UNITS[found[2]]


def _is_aside(path: Path) -> bool:
    """Return whether this belongs to no entry: a temporary file, the lock of a folder, or a link."""
    return path.name.startswith(".") or path.suffix in (".lock", ".tmp") or path.is_symlink()


def _entry(kind: str, path: Path) -> Entry | None:
    """Return the entry of a path; None if it was deleted meanwhile."""
    try:
        stats = [p.stat() for p in in_use.files_of(path)]
        used = max(s.st_mtime for s in [path.stat(), *stats])
        return Entry(kind, path, sum(s.st_size for s in stats), used, in_use.is_used(path))
    except FileNotFoundError:
        return None
