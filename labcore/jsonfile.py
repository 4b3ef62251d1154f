"""Small records on disk: a JSON file is there whole, or as it was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
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
    """The values in a JSON file in UTF-8. Raises OSError where it cannot be read, and ValueError that names it."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one too
        raise ValueError(f"{path} is not JSON that can be read ({error})") from None


def read_object(path: Path, advice: str, needs: Iterable[str] = ()) -> dict[str, Any]:
    """The JSON object in a file that the lab wrote, which has at least the keys in `needs`.

    Raises OSError where the file cannot be read, and ValueError for any other content: it names the file, says what is wrong
    and ends with `advice`, what to do about it.
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
    """While open, no other process of this machine is `alone` with a file of this folder: to read it, add to it and write it.

    The folder is locked, so that no lock file is left next to the user's own. Where its disk has no locks, nothing is held.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(locked(path.parent))
        yield
