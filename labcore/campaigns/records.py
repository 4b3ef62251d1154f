"""Records of finished runs: the contents that tables and readers need, as committed JSON without paths or names of a machine.

papermill_runs/results/<spec>/records/<id>.json    one finished run: parameters, seed, metrics, and what made them
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labcore.campaigns import state
from labcore.campaigns.execute import LOG, read_result
from labcore.campaigns.spec import Run
from labcore.campaigns.state import RESULT, State
from labcore.jsonfile import read_json
from labcore.portable import without_folders, without_hosts

Record = dict[str, Any]
RECORDS = "records"
TAIL = 40  # lines of the log that a record keeps
KINDS = {"id": str, "row": str, "seed": int, "parameters": dict, "metrics": dict}


def record(found: State) -> Record:
    """Return the record of a finished run."""
    values, last = found.values, found.values["attempts"][-1]
    hosts = {str(attempt["host"]) for attempt in values["attempts"] if attempt.get("host")}
    return {
        **{key: values[key] for key in ("id", "spec", "row", "seed", "notebook")},
        "parameters": without_folders(values["parameters"]),
        **({"contents": values["contents"]} if values.get("contents") else {}),
        "metrics": without_folders(read_result(found.folder / RESULT)),
        "seconds": round(found.seconds, 1),
        "attempts": len(values["attempts"]),
        **{key: last.get(key) for key in ("ended", "revision", "code", "device")},
        "log": [without_hosts(line, hosts) for line in _tail(found.folder / LOG)],
    }


def collect(runs: Sequence[Run], root: Path) -> list[Record]:
    """Make the records of those runs that are finished below `root`."""
    found = (state.read(run.folder(root)) for run in runs)
    return [record(one) for one in found if one is not None and one.done]


def read_records(folder: Path) -> list[Record]:
    """Read the records of a results folder, by row and seed. Raises ValueError for a file that is no record."""
    found = []
    for path in sorted((folder / RECORDS).glob("*.json")):
        try:
            one = read_json(path)
        except ValueError:
            one = None
        if not _is_record(one):
            raise ValueError(f"{path} is not a record of a run; restore it from git, or remove it and publish again")
        found.append(one)
    return sorted(found, key=lambda r: (r["row"], r["seed"], r["id"]))


def label(one: Record) -> str:
    """Name a record for people: row, seed, id, and when its run ended."""
    ended = f", of {one['ended']}" if one.get("ended") else ""
    return f"{one['row']}-seed{one['seed']} ({one['id']}{ended})"


def check_same(records: Sequence[Record], folder: Path) -> None:
    """Check that the records of each row differ in the seed alone; otherwise their mean would be meaningless.

    Raises ValueError for other code, other parameters, or the same seed twice. folder: the results folder, for the message.
    """
    first: dict[str, Record] = {}
    for one in records:
        other = first.setdefault(one["row"], one)
        if other is one:
            continue
        pair = f"records {other['id']} and {one['id']} of row {one['row']!r}"
        if other.get("code") != one.get("code"):
            raise ValueError(
                f"{pair} come from different versions of the notebook's code; their mean would be meaningless. Remove the "
                "folder of the older run, and run it again"
            )
        if differs := _differing(other, one):
            raise ValueError(
                f"{pair} differ in {', '.join(differs)}; remove the older one from {folder.name}/{RECORDS}, "
                "or give the new runs a row of their own"
            )
    _check_seeds(records, folder)


def _is_record(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(values.get(key), kind) for key, kind in KINDS.items())


def _differing(one: Record, other: Record) -> list[str]:
    """Names of the parameters in which two records differ, apart from the seed."""
    a, b = _comparable(one, other), _comparable(other, one)
    names = sorted((a.keys() | b.keys()) - {"seed"})
    return [name for name in names if a.get(name) != b.get(name)]


def _comparable(one: Record, other: Record) -> dict[str, Any]:
    """Parameters; a path counts by its contents if both records have them, else by its last part."""
    contents, other_contents = one.get("contents") or {}, other.get("contents") or {}
    in_both = {name: contents[name] for name in contents if name in other_contents}
    return without_folders(one["parameters"]) | in_both


def _check_seeds(records: Sequence[Record], folder: Path) -> None:
    seen: dict[tuple[str, int], Record] = {}
    for one in records:
        other = seen.setdefault((one["row"], one["seed"]), one)
        if other is not one:
            raise ValueError(
                f"records {other['id']} and {one['id']} of row {one['row']!r} have the same parameters and the same seed; "
                f"remove the older one from {folder.name}/{RECORDS}"
            )


def _tail(log: Path) -> list[str]:
    """Return the last lines of a log, with absolute paths shortened to their last part."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    lines = [line.split("\r")[-1] for line in lines]
    return without_folders(lines[-TAIL:])
