"""Output of the command line: progress of long work (a bar on a terminal, a line for each tenth in a log), and tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from labcore.processes import is_first_process

Progress = Callable[[str, int, int], None]
"""progress(what, rows done, rows in all), called as parts of long work complete."""


def show_progress(force_lines: bool = False) -> Progress:
    """Return a `Progress` that writes to stderr; only the first process of a launch writes."""
    if not is_first_process():
        return lambda what, done, total: None
    if sys.stderr.isatty() and not force_lines:
        return _bars()
    return _lines()


def _bars() -> Progress:
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = tqdm(total=total, initial=done, desc=what, leave=False)
        bars[what].update(done - bars[what].n)
        if done >= total:
            bars.pop(what).close()

    return show


def _lines() -> Progress:
    tenths_shown: dict[str, int] = {}

    def show(what: str, done: int, total: int) -> None:
        if done >= total and what not in tenths_shown:
            return  # work in one part is done when it is first reported
        tenth = 10 * done // total
        if tenth > tenths_shown.get(what, -1):
            tenths_shown[what] = tenth
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)
        if done >= total:
            tenths_shown.pop(what)

    return show


def table(rows: Sequence[tuple[str, Any]]) -> str:
    """Write names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}s}  {value}" for name, value in rows)
