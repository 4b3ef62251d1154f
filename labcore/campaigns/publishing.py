"""Publishing a campaign: its finished runs become records in papermill_runs/results/<spec>, and the tables are made again.

Records of a row accumulate, seed by seed, and every cell of the table gives its n. New records that differ from a row's
published ones in code or parameters replace them as soon as all of the row's runs are finished. Until then the published
records stay, and the new ones wait in their runs' folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from labcore.campaigns.records import RECORDS, Record, check_same, label, read_records
from labcore.campaigns.results import TABLE, finished_records, rebuild
from labcore.campaigns.spec import Run, RunSpec
from labcore.files import write_atomic
from labcore.jsonfile import write_json


class Publication(NamedTuple):
    """The outcome of `publish`, in words for people.

    folder: the results folder. added: new records. replaced: records that were removed or overwritten. missing: runs that
    are not finished. waiting: reasons why the published records of a row stay as they are.
    """

    folder: Path
    added: list[str]
    replaced: list[str]
    missing: list[str]
    waiting: list[str]


class _Changes(NamedTuple):
    """Records to write and to remove, and the reasons why others wait."""

    write: list[Record]
    remove: list[Record]
    waiting: list[str]


def publish(spec: RunSpec, runs: Sequence[Run], root: Path, again: bool = False) -> Publication:
    """Add the finished ones of `runs` to papermill_runs/results/<spec>, and rebuild its tables.

    again: runs below `root` replace published records of the same runs. Raises ValueError for smoke runs, if no run is
    finished, and if the records of a row do not belong together and no other row can be published.
    """
    if any(run.smoke for run in runs):
        raise ValueError("numbers of smoke runs are not results; leave out --smoke to publish")
    finished = finished_records(spec, runs, root, again)
    if not finished:
        raise ValueError(f"{spec.name} has no finished runs in {root}; run it first")
    published = read_records(spec.results)
    changes = _changes(spec, runs, finished, published)
    _check_outcome(spec, published, changes)
    _write(spec, changes)

    before = {record["id"]: record for record in published}
    overwritten = [before[record["id"]] for record in changes.write if record["id"] in before]
    return Publication(
        spec.results,
        added=[label(record) for record in changes.write if record["id"] not in before],
        replaced=[label(record) for record in changes.remove + overwritten],
        missing=[run.name for run in runs if run.id not in finished],
        waiting=changes.waiting,
    )


def _changes(spec: RunSpec, runs: Sequence[Run], finished: dict[str, Record], published: list[Record]) -> _Changes:
    """Decide row by row. Raises ValueError if the records of a row do not belong together and nothing else is to be done."""
    total, problems = _Changes([], [], []), []
    for row in dict.fromkeys(run.row for run in runs):
        row_runs = [run for run in runs if run.row == row]
        try:
            changes = _changes_of_row(spec, row_runs, finished, published)
        except ValueError as problem:
            problems.append(problem)
            continue
        total.write.extend(changes.write)
        total.remove.extend(changes.remove)
        total.waiting.extend(changes.waiting)
    if problems and not total.write:
        raise problems[0]
    total.waiting.extend(str(problem) for problem in problems)
    return total


def _changes_of_row(
    spec: RunSpec, runs: Sequence[Run], finished: dict[str, Record], published: list[Record]
) -> _Changes:
    """Decide which records of a row are written and which are removed.

    Once all runs of the row are finished, their records become the row's only ones. Before that they join the published
    ones, or wait if these are of other code or parameters. Published records are removed only if new ones take their place.

    Raises ValueError if the finished records do not belong together.
    """
    row, records = runs[0].row, [finished[run.id] for run in runs if run.id in finished]
    check_same(records, spec.results)
    ids = {record["id"] for record in records}
    write = [record for record in records if record not in published]
    others = [record for record in published if record["row"] == row and record["id"] not in ids]

    complete = len(records) == len(runs)
    together = _belong_together(spec, records + _other_seeds(others, records))
    if complete and (write or not together):
        return _Changes(write, others, [])
    if together or not records:
        return _Changes(write, _same_seeds(others, records), [])
    reason = (
        f"row {row!r} keeps its published records, which are of other code or parameters, until all of its runs are "
        f"finished; finished are {len(records)} of {len(runs)}"
    )
    return _Changes([], [], [reason])


def _same_seeds(records: list[Record], new: list[Record]) -> list[Record]:
    """Return those of the records whose seeds the new ones have too."""
    seeds = {record["seed"] for record in new}
    return [record for record in records if record["seed"] in seeds]


def _other_seeds(records: list[Record], new: list[Record]) -> list[Record]:
    """Return those of the records whose seeds the new ones do not have."""
    seeds = {record["seed"] for record in new}
    return [record for record in records if record["seed"] not in seeds]


def _belong_together(spec: RunSpec, records: Sequence[Record]) -> bool:
    try:
        check_same(records, spec.results)
    except ValueError:
        return False
    return True


def _check_outcome(spec: RunSpec, published: list[Record], changes: _Changes) -> None:
    """Check all records as they will be, before any file is touched."""
    outcome = {record["id"]: record for record in [*published, *changes.write]}
    for record in changes.remove:
        del outcome[record["id"]]
    check_same(list(outcome.values()), spec.results)


def _write(spec: RunSpec, changes: _Changes) -> None:
    """Write records and tables. New records come first, so that a kill loses none; publishing again completes the rest."""
    folder = spec.results
    (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    for record in changes.write:
        write_json(folder / RECORDS / f"{record['id']}.json", record)
    for record in changes.remove:
        (folder / RECORDS / f"{record['id']}.json").unlink()
    layout = {**spec.table.model_dump(mode="json"), "rows": list(spec.row_parameters())}
    write_json(folder / TABLE, layout)
    for name, text in rebuild(folder).items():
        write_atomic(folder / name, text)
