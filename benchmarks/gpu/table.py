"""The record of a GPU benchmark as a Markdown table; without one, a sentence that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"
NONE = "Untested on GPU: the GPU benchmark has not been run.\n"
HEAD = ("row", "lower bound", "ours", "spread", "n", "ml-tarflow", "ml-tarflow / ours", "ours / lower bound", "target")


def committed(folder: Path = RESULTS) -> str:
    """A table for each device whose record is in the folder; NONE where there is none. Toy records do not count."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("gpu-*.json")) if ".previous" not in path.name]
    tables = [table(record) for record in found if not record.get("toy")]
    return "\n".join(tables) if tables else NONE


def table(record: dict[str, Any]) -> str:
    """A record as a table: medians, spreads (interquartile range / median), targets reached or missed, rows not run."""
    toy = " (toy size: the numbers are meaningless, and no target is judged)" if record.get("toy") else ""
    lines = [
        f"{record['device']}, torch {record['torch']}, revision {record['revision']}{toy}.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
    ]
    lines += [f"| {' | '.join(cells(row))} |" for row in sorted(record["rows"], key=lambda row: row["n"])]
    lines += earlier(record["rows"])
    if record["not_run"]:
        lines += ["", "Not run: " + "; ".join(f"{row['name']} ({row['reason']})" for row in record["not_run"]) + "."]
    return "\n".join([*lines, ""])


def earlier(rows: list[dict[str, Any]]) -> list[str]:
    """What is said of rows that an earlier call measured: they have `measured at`, a text."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if "measured at" in row:
            numbers = found.setdefault(row["measured at"], [])
            numbers += [] if str(row["n"]) in numbers else [str(row["n"])]
    return [line for text, numbers in found.items() for line in ("", f"Rows {', '.join(numbers)}: measured at {text}.")]


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    ours, theirs = row["ours"], row.get("theirs")
    their_time = duration(theirs["seconds"]) if isinstance(theirs, dict) else theirs or "-"
    return (
        f"{row['n']}. {row['name']}: {row['case']}",
        duration(row["floor_s"]),
        row.get("reason", "-") if ours is None else duration(ours["seconds"]),
        "-" if ours is None else f"{ours['spread']:.0%}",
        "-" if ours is None else str(ours["n"]),
        their_time,
        ratio(row.get("theirs / ours")),
        ratio(row.get("ours / floor")),
        "; ".join(map(verdict, row["targets"])) or "-",
    )


def verdict(target: dict[str, Any]) -> str:
    """A target, what was found, and whether that reaches it."""
    word = {True: "reached", False: "missed", None: "not judged"}[target["reached"]]
    found = "not measured" if target["found"] is None else f"{target['found']:.3g}"
    return f"{target['says']}: {found}, {word}"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that suits them, three digits."""
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError


def ratio(value: float | None) -> str:
    """A factor with three digits."""
    return "-" if value is None else f"{value:.3g}"
