"""Small records on disk: a JSON file is there whole, or as it was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labcore.files import write_atomic
from labcore.locks import locked


def write_json(path: Path, values: dict[str, Any] | list[Any]) -> None:
    """A JSON file that is replaced at once. Raises ValueError, and leaves what is there, where a number is not finite."""
    try:
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(f"{path} was not written: a number is NaN or infinity ({error})") from None
    write_atomic(path, text)


def parse_json(text: str) -> Any:
    """The values in JSON text; ValueError for text that is none, and for what is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply; write it with fewer levels") from None


def read_json(path: Path) -> Any:
    """The values in a JSON file in UTF-8; OSError where it cannot be read, ValueError as `parse_json`."""
    return parse_json(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """While open, no other process of this machine is `alone` with a file of this folder: to read it, add to it and write it.

    The folder is locked, so that no lock file is left next to the user's own. Where its disk has no locks, nothing is held.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(locked(path.parent))
        yield
