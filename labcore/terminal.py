"""Text that any terminal or log can show. Imports nothing heavy: the command line needs it before all else."""

from __future__ import annotations

import sys
from pathlib import Path


def show_any_character() -> None:
    """Write a character that the terminal or log cannot show as its escape, instead of ending the command with an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """Return a text without terminal commands: control characters, except line ends, are written as \\x1b and the like."""
    keep = lambda c: c.isprintable() or c == "\n"  # noqa: E731
    return "".join(c if keep(c) else c.encode("unicode_escape").decode() for c in text)


def seen_from_here(path: Path) -> str:
    """Return a path relative to the working directory if it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
