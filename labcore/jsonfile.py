"""Small records on disk: a JSON file is there whole, or as it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, values: dict[str, Any] | list[Any]) -> None:
    """A JSON file that is replaced at once. Raises ValueError, and leaves what is there, where a number is not finite."""
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        new.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
        os.replace(new, path)
    except ValueError as error:
        raise ValueError(f"{path} was not written: a number is NaN or infinity ({error})") from None
    finally:
        new.unlink(missing_ok=True)
