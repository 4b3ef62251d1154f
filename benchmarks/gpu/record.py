"""The record of one GPU benchmark: a JSON file that is replaced whole before and after every row.

The file is all that a restarted process needs: rows that are in it, measured or not run, are not run again.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from labcore.jsonfile import write_json


class Check(NamedTuple):
    """A target: `found` should lie within `low` and `high`; None is no bound, and nothing found is not reached."""

    says: str
    found: float | None
    low: float | None = None
    high: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the target is reached."""
        if self.found is None or not math.isfinite(self.found):
            return False
        return (self.low is None or self.found >= self.low) and (self.high is None or self.found <= self.high)


class Record:
    """Rows measured and not run, in a file. `values` is what the file holds.

    rows: entries with n, case, and what was measured. not_run: {"n", "name", "reason"}. running: the row at hand and the
    `until` of its limit, in seconds since the epoch; None between rows and at the end. finished: whether all rows were tried.
    """

    def __init__(self, path: Path, values: dict[str, Any]):
        self.path, self.values = path, values

    @classmethod
    def new(cls, path: Path, about: dict[str, Any]) -> Record:
        """An empty record with what is known beforehand, written at once. Raises OSError where it cannot be written."""
        start = {"ceilings": {}, "rows": [], "not_run": [], "running": None, "finished": False}
        record = cls(path, {**about, **start})
        record.write()
        return record

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a file."""
        return cls(path, json.loads(path.read_text()))

    def write(self) -> None:
        """Replace the file; numbers that are not finite become null."""
        write_json(self.path, _finite(self.values))

    @property
    def done(self) -> set[int]:
        """Numbers of the rows that need not be run again."""
        return {row["n"] for row in (*self.values["rows"], *self.values["not_run"])}

    def begin(self, n: int, name: str, limit: float) -> None:
        """Write which row is at hand, and that it may take `limit` seconds."""
        self.values["running"] = {"n": n, "name": name, "until": time.time() + limit}
        self.write()

    def add(self, n: int, entries: list[dict[str, Any]]) -> None:
        """Write what a row has measured so far."""
        self.values["rows"] += [{"n": n, **entry} for entry in entries]
        self.write()

    def end(self) -> None:
        """Write that no row is at hand."""
        self.values["running"] = None
        self.write()

    def leave_out(self, n: int, name: str, reason: str) -> None:
        """Write that a row was not run, and why."""
        self.values["not_run"].append({"n": n, "name": name, "reason": reason})
        self.end()

    def entry(self, n: int, case: str | None = None) -> dict[str, Any] | None:
        """The entry of a row (the first one where no case is given); None where there is none."""
        found = (row for row in self.values["rows"] if row["n"] == n and case in (None, row["case"]))
        return next(found, None)

    def seconds(self, n: int, of: str = "ours") -> float | None:
        """Median seconds of a row, by the fastest of its ways; None where it was not measured."""
        rows = (row.get(of) for row in self.values["rows"] if row["n"] == n)
        return min((each["seconds"] for each in rows if isinstance(each, dict)), default=None)


def file_name(part: str, device: str) -> str:
    """The file of a part's record on a device."""
    return f"{part}-{''.join(c if c.isalnum() else '-' for c in device.lower()).strip('-')}.json"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
