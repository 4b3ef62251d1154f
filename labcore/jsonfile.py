"""Small records on disk: JSON files, which are replaced atomically."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from labcore.files import write_atomic
from labcore.locks import locked


def write_json(path: Path, values: dict[str, Any] | list[Any]) -> None:
    """Write a JSON file atomically. Raises ValueError, and keeps the old file, if a number is not finite."""
    try:
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(f"{path} was not written: a number is NaN or infinity ({error})") from None
    write_atomic(path, text)


def parse_json(text: str) -> Any:
    """Return the values in JSON text; ValueError for other text, and for values that are nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply; write it with fewer levels") from None


def read_json(path: Path) -> Any:
    """Return the values in a JSON file in UTF-8. Raises OSError, or ValueError that names the file, if it cannot be read."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one too
        raise ValueError(f"{path} is not JSON that can be read ({error})") from None


def read_object(path: Path, advice: str, needs: Iterable[str] = ()) -> dict[str, Any]:
    """Return the JSON object in a file that the lab wrote, with at least the keys in `needs`.

    Raises OSError if the file cannot be read, and ValueError for any other content: the message names the file and the problem,
    and ends with `advice`, which says what to do.
    """
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {advice}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged (it holds a {type(values).__name__} instead of an object); {advice}")
    if missing := [key for key in needs if key not in values]:
        raise ValueError(f"{path} is damaged (it has no {', '.join(missing)}); {advice}")
    return values


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Exclude other processes of this machine that use `alone` on a file in the same folder, to read, extend and write it.

    The folder itself is locked, so no lock file is left next to the user's files. On a disk without locks, no lock is taken.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(locked(path.parent))
        yield
