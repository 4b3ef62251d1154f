"""Published results of a campaign: records of finished runs, and the tables made from them alone.

    papermill_runs/results/<spec>/records/<id>.json    one finished run; see labcore.campaigns.records
                                  table.json           columns, baseline and the order of the rows
                                  table.md, table.csv  see labcore.campaigns.tables

Notebooks find everything that they need of a campaign here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from labcore.campaigns.project import project_folders
from labcore.campaigns.records import Record, check_same, collect, read_records
from labcore.campaigns.spec import Run, RunSpec, TableSpec
from labcore.campaigns.tables import exploded, tables
from labcore.jsonfile import read_object

__all__ = ["exploded", "finished_records", "published", "published_records", "rebuild"]

TABLE = "table.json"


class Published(NamedTuple):
    """A campaign as committed: its records, and its table in Markdown."""

    records: list[Record]
    table: str


def published(spec: str, results: Path | None = None) -> Published | None:
    """Read the published results of a spec by name, searched for as specs are; None if there are none."""
    places = [results] if results else [place / "results" for place in project_folders()]
    for place in places:
        if (place / spec / TABLE).is_file():
            return Published(read_records(place / spec), rebuild(place / spec)["table.md"])
    return None


def published_records(spec: RunSpec, runs: Sequence[Run]) -> dict[str, Record]:
    """Return the published records of these runs by id. A run is published if its parameters and its code are the same."""
    published_by_id = {one["id"]: one for one in read_records(spec.results)}
    records = {}
    for run in runs:
        one = published_by_id.get(run.id)
        if one is not None and run.code is not None and one.get("code") == run.code:
            records[run.id] = {**one, "row": run.row}  # a row that was renamed
    return records


def finished_records(spec: RunSpec, runs: Sequence[Run], root: Path, again: bool = False) -> dict[str, Record]:
    """Return the records of all runs that are published or finished below `root`, by id.

    A published record has precedence. again: a run below `root` with the notebook's present code has precedence.
    """
    records = published_records(spec, runs)
    code = {run.id: run.code for run in runs}
    looked_at = [run for run in runs if again or run.id not in records]
    for one in collect(looked_at, root):
        if one["id"] not in records or one["code"] == code[one["id"]]:
            records[one["id"]] = one
    return records


def rebuild(folder: Path) -> dict[str, str]:
    """Make the tables of a results folder from its records alone: file name -> text.

    Raises ValueError for a file that is no record, and for records of a row that do not belong together.
    """
    layout = read_object(folder / TABLE, "restore it from git, or publish again", needs=["columns", "rows"])
    rows = layout.pop("rows")
    records = read_records(folder)
    check_same(records, folder)
    return tables(records, TableSpec(**layout), rows)
