"""The list of `lab runs`: runs in their folders and published records, filtered, with chosen numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labcore.campaigns import slurm, state
from labcore.campaigns.execute import read_result
from labcore.campaigns.project import FOLDER, project
from labcore.campaigns.records import Record, read_records
from labcore.campaigns.spec import RunSpec, load_spec
from labcore.campaigns.state import RESULT, State
from labcore.campaigns.tables import metric
from labcore.hints import nearest
from labcore.yamlfile import parse_value

STATUSES = (*state.STATUSES, "queued", "published")
ENDED_EARLY = ("new", "failed", "stopped", "killed")
"""Statuses of runs that `lab run` would start or resume if they were not published."""


class Entry(NamedTuple):
    """One run of the list. result: its numbers, empty if it is not finished."""

    id: str
    spec: str
    row: str
    seed: int
    status: str
    seconds: float
    parameters: dict[str, Any]
    result: dict[str, Any]


def list_runs(
    name: str | None, status: str | None, where: Sequence[str], compare: Sequence[str], root: Path | None
) -> list[str]:
    """Return the lines of the list, the head first.

    name: of a spec; None lists all. status: one of STATUSES. where: texts "parameter=value" that must all hold. compare:
    dotted paths into result.json. Raises ValueError for a status, parameter or path that no run has.
    """
    if status is not None and status not in STATUSES:
        raise ValueError(f"status was {status!r}; it is one of {', '.join(STATUSES)}")
    conditions = [_condition(text) for text in where]
    spec = _spec(name, required=root is None)
    records = _published(spec, name, root)
    root = root or (spec.project if spec else project() or Path.cwd()) / FOLDER / "executed"

    damaged: list[Path] = []
    entries = _entries(root, Path(name).stem if name else None, records, damaged)
    _check_filters(entries, [key for key, _ in conditions], compare, root)
    columns = {path: path for path in compare} or (spec.table.columns if spec else {})
    chosen = [entry for entry in entries if status in (None, entry.status) and _fits(entry, conditions)]

    rows = [["id", "spec", "row", "seed", "status", "seconds", *columns]]
    rows += [_cells(entry, list(columns.values())) for entry in chosen]
    rows += [["?", path.parent.name, path.name, "?", "damaged", "?", *("-" for _ in columns)] for path in damaged]
    return _aligned(rows)


def _spec(name: str | None, required: bool) -> RunSpec | None:
    """Load a spec. One that is gone is an error only if it is required: its runs can still be listed."""
    if name is None:
        return None
    try:
        return load_spec(name)
    except ValueError:
        if required:
            raise
        return None


def _published(spec: RunSpec | None, name: str | None, root: Path | None) -> list[Record]:
    """Read the published records of a spec, or of all specs; none for a folder of runs without the name of a spec."""
    if spec is not None:
        return read_records(spec.results)
    if name is not None or root is not None:
        return []
    folders = sorted(((project() or Path.cwd()) / FOLDER / "results").glob("*"))
    return [record for folder in folders for record in read_records(folder)]


def _entries(root: Path, name: str | None, records: list[Record], damaged: list[Path]) -> list[Entry]:
    """List runs in folders and published records by spec; folders with a damaged run.json are added to `damaged`."""
    found = state.states(root, [name, f"{name}-smoke"] if name else None, damaged)
    queue: set[str] = set()
    with contextlib.suppress(OSError):  # the list does not wait for a cluster that does not answer
        queue = slurm.queued(one.folder for one in found)
    by_id = {record["id"]: record for record in records}
    entries = [_of_state(one, queue, by_id.get(one.values["id"])) for one in found]
    listed = {entry.id for entry in entries}
    entries += [_of_record(record) for record in records if record["id"] not in listed]
    return sorted(entries, key=lambda entry: entry.spec)


def _of_state(found: State, queue: set[str], record: Record | None) -> Entry:
    """Make the entry of a run in its folder. `record`: its published record, which counts if its code is the same."""
    values, status = found.values, state.status_of(found)
    if status in ("new", "stopped", "killed") and slurm.has_job(found.folder, queue):
        status = "queued"
    code = values.get("code")
    if status in ENDED_EARLY and record is not None and code is not None and record.get("code") == code:
        return _of_record(record)
    result = _result(found.folder) if status == "done" else {}
    about = (values["id"], found.folder.parent.name, values["row"], values["seed"])
    return Entry(*about, status, found.seconds, values["parameters"], result)


def _of_record(record: Record) -> Entry:
    about = (record["id"], str(record.get("spec", "?")), record["row"], record["seed"])
    return Entry(*about, "published", record.get("seconds") or 0.0, record["parameters"], record["metrics"])


def _result(folder: Path) -> dict[str, Any]:
    try:
        return read_result(folder / RESULT)
    except ValueError:
        return {}


def _check_filters(entries: list[Entry], keys: list[str], paths: Sequence[str], root: Path) -> None:
    """Raises ValueError for a filter that no run can pass: it would look like an empty result."""
    if not entries:
        raise ValueError(f"there are no such runs in {root}; `lab run SPEC` makes them")
    known = {"id", "row", "seed"}.union(*(entry.parameters for entry in entries))
    for key in keys:
        if key not in known:
            raise ValueError(f"--where names {key!r}{nearest(key, known)}, which no run here has")
    results = [entry.result for entry in entries if entry.status in ("done", "published")]
    for path in paths:
        if results and all(metric(result, path) is None for result in results):
            raise ValueError(f"--compare names {path!r}, and no result.json here has a number there")


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--where was {text!r}; write a parameter and its value, like width=64")
    return key, value


def _fits(entry: Entry, conditions: list[tuple[str, str]]) -> bool:
    return all(_matches(entry, key, text) for key, text in conditions)


def _matches(entry: Entry, key: str, text: str) -> bool:
    """Whether a run's parameter, row, seed or id has the value that the text gives."""
    given = getattr(entry, key) if key in ("row", "seed", "id") else entry.parameters.get(key)
    with contextlib.suppress(ValueError):  # 1e-3 is 0.001 here, though a text in YAML
        if isinstance(given, int | float) and not isinstance(given, bool):
            return given == float(text)
    with contextlib.suppress(ValueError):
        return given == parse_value(text) or str(given) == text
    return str(given) == text


def _cells(entry: Entry, paths: list[str]) -> list[str]:
    numbers = [metric(entry.result, path) for path in paths]
    return [
        *(entry.id, entry.spec, entry.row, str(entry.seed), entry.status, f"{entry.seconds:.1f}"),
        *("-" if number is None else f"{number:.6g}" for number in numbers),
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
