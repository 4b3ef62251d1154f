"""Records of finished runs, and the table of a spec made from them: mean over seeds, and paired differences from a baseline.

    papermill_runs/results/<spec>/records/<id>.json    one finished run: parameters, seed, metrics, and what made them
                                  table.json           columns, baseline and the order of the rows
                                  table.md, table.csv  made from these alone; see `rebuild`

Records accumulate: seeds that are published later join the others, and every cell of the table says its n.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labcore.campaigns import state
from labcore.campaigns.execute import LOG, read_result
from labcore.campaigns.interval import Interval, mean_interval, paired
from labcore.campaigns.spec import Run, RunSpec, TableSpec
from labcore.campaigns.state import RESULT, State
from labcore.files import write_atomic
from labcore.jsonfile import read_json, read_object
from labcore.portable import without_folders, without_hosts

TAIL = 40  # lines of the log that a record keeps
RECORDS, TABLE = "records", "table.json"


def record(found: State) -> dict[str, Any]:
    """Everything about a finished run that a table or a reader needs, without this machine's paths."""
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


def collect(runs: Sequence[Run], root: Path) -> list[dict[str, Any]]:
    """Records of those runs that are done."""
    found = (state.read(run.folder(root)) for run in runs)
    return [record(one) for one in found if one is not None and one.done]


def metric(result: dict[str, Any], path: str) -> float | None:
    """The number at a dotted path (`bayes.accuracy`, `sites.0.accuracy`); None where there is none."""
    value: Any = result
    for key in path.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def publish(spec: RunSpec, runs: Sequence[Run], root: Path, results: Path | None = None) -> Path:
    """Add the finished ones of `runs` to papermill_runs/results/<spec> and make its tables anew; the folder.

    Raises ValueError for smoke runs, where nothing is finished, and where a row has records with other parameters.
    """
    if any(run.smoke for run in runs):
        raise ValueError("numbers of smoke runs are not results; leave out --smoke to publish")
    records = collect(runs, root)
    if not records:
        raise ValueError(f"{spec.name} has no finished runs in {root}; run it first")
    folder = (results or spec.project / "papermill_runs" / "results") / spec.name
    _check_same({r["id"]: r for r in [*_records(folder), *records]}.values(), folder)
    (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    for one in records:
        write_atomic(folder / RECORDS / f"{one['id']}.json", json.dumps(one, indent=2) + "\n")
    layout = {**spec.table.model_dump(mode="json"), "rows": list(spec.row_parameters())}
    write_atomic(folder / TABLE, json.dumps(layout, indent=2) + "\n")
    for name, text in rebuild(folder).items():
        write_atomic(folder / name, text)
    return folder


class Published(NamedTuple):
    """A campaign as committed: its records, and its table in Markdown."""

    records: list[dict[str, Any]]
    table: str


def published(spec: str, results: Path | None = None) -> Published | None:
    """What papermill_runs/results holds of a spec, looked for as specs are; None where there is nothing."""
    from labcore.campaigns.spec import project_folders

    places = [results] if results else [place / "results" for place in project_folders()]
    for place in places:
        if (place / spec / TABLE).is_file():
            return Published(_records(place / spec), rebuild(place / spec)["table.md"])
    return None


def rebuild(folder: Path) -> dict[str, str]:
    """File name -> text of the tables of a results folder, from its records alone. ValueError for what does not fit."""
    layout = read_object(folder / TABLE, "restore it from git, or publish again", needs=["columns", "rows"])
    rows = layout.pop("rows")
    records = _records(folder)
    _check_same(records, folder)
    return tables(records, TableSpec(**layout), rows)


def tables(records: Sequence[dict[str, Any]], layout: TableSpec, rows: Sequence[str] = ()) -> dict[str, str]:
    """table.md and table.csv of records: rows in the order given, then others by name; a note names those not run."""
    not_run = [row for row in rows if row not in {record["row"] for record in records}]
    if layout.each is not None:
        places = {row: place for place, row in enumerate(rows)}
        records = exploded(sorted(records, key=lambda r: places.get(r["row"], len(places))), layout.each)
        rows = list(dict.fromkeys(record["row"] for record in records))
    order = [*rows, *sorted({r["row"] for r in records} - set(rows))]
    order = [row for row in order if any(r["row"] == row for r in records)]
    values = {
        (row, title): {
            r["seed"]: v for r in records if r["row"] == row and (v := metric(r["metrics"], path)) is not None
        }
        for row in order
        for title, path in layout.columns.items()
    }
    means = {key: mean_interval(list(by_seed.values())) for key, by_seed in values.items() if by_seed}
    differences = {
        (row, title): difference
        for (row, title), by_seed in values.items()
        if layout.baseline in order
        and row != layout.baseline
        and (difference := paired(by_seed, values[layout.baseline, title])) is not None
    }
    return {
        "table.md": _markdown(order, layout, means, differences, not_run),
        "table.csv": _csv(order, layout, means, differences),
    }


def exploded(records: Sequence[dict[str, Any]], each: str) -> list[dict[str, Any]]:
    """A record for every entry of `each` in the records' metrics, in the row that is called as the entry is.

    An entry whose name does not begin with its run's row has that row's name beside its own.
    """
    return [
        {**record, "row": name if name.startswith(record["row"]) else f"{name} ({record['row']})", "metrics": found}
        for record in records
        for name, found in record["metrics"][each].items()
    ]


Cells = dict[tuple[str, str], Interval]


def _markdown(rows: list[str], layout: TableSpec, means: Cells, differences: Cells, not_run: list[str]) -> str:
    best = {}
    for title, direction in layout.better.items():
        there = [means[row, title] for row in rows if (row, title) in means]
        if len(there) > 1 and len({one.n for one in there}) == 1 < there[0].n:  # else the seeds would decide
            best[title] = (max if direction == "higher" else min)(one.mean for one in there)
    heads = ["row"]
    for title in layout.columns:
        heads += [title] + ([f"difference from {layout.baseline}"] if differences else [])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [row]
        for title in layout.columns:
            found = means.get((row, title))
            text = _cell(found) if found else "-"
            cells.append(f"**{text}**" if found and best.get(title) == found.mean else text)
            if differences:
                difference = differences.get((row, title))
                cells.append(_cell(difference, signed=True) if difference else "-")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    note = "Mean ± half of its 95% interval (Student's t) over n seeds."
    if best:
        note += " Bold: the best mean of a column, however small its lead."
    if differences:
        note += " Differences are paired by seed, with their own interval; * marks one that excludes 0."
    if not_run:
        note += f" Not run: {'; '.join(not_run)}."
    return "\n".join([*lines, "", note]) + "\n"


def _cell(value: Interval, signed: bool = False) -> str:
    """ "0.8421 ± 0.0032 (n=3)", to two digits of the half width; four digits of the mean where there is none."""
    if not value.half:
        half = "" if value.half is None else " ± 0"
        return f"{value.mean:{'+' if signed else ''}.4g}{half} (n={value.n}){'*' if signed and value.excludes_zero else ''}"
    digits = max(0, min(10, 1 - _exponent(value.half)))
    mean = f"{value.mean:{'+' if signed else ''}.{digits}f}"
    return f"{mean} ± {value.half:.{digits}f} (n={value.n}){'*' if signed and value.excludes_zero else ''}"


def _exponent(value: float) -> int:
    return int(f"{abs(value):e}".split("e")[1])


def _csv(rows: list[str], layout: TableSpec, means: Cells, differences: Cells) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["mean", "half", "n"]
    writer.writerow(["row", "column", *names, *(f"difference_{name}" for name in names)])
    for row in rows:
        for title in layout.columns:
            pair = (means.get((row, title)), differences.get((row, title)))
            writer.writerow([row, title, *(_number(v) for one in pair for v in (one or (None,) * 3))])
    return out.getvalue()


def _number(value: float | int | None) -> str:
    return "" if value is None else f"{value:.10g}"


def _records(folder: Path) -> list[dict[str, Any]]:
    """Committed records, by row and seed. ValueError names a file that is none."""
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


def _is_record(values: Any) -> bool:
    """Whether JSON values have what tables are made of."""
    kinds = {"id": str, "row": str, "seed": int, "parameters": dict, "metrics": dict}
    return isinstance(values, dict) and all(isinstance(values.get(key), kind) for key, kind in kinds.items())


def _check_same(records: Any, folder: Path) -> None:
    """ValueError where records of one row differ in more than the seed: their mean would mean nothing."""
    first: dict[str, dict[str, Any]] = {}
    for one in records:
        other = first.setdefault(one["row"], one)
        a, b = _comparable(other, one), _comparable(one, other)
        codes = {other.get("code"), one.get("code")} - {None}
        if other is not one and len(codes) > 1:
            raise ValueError(
                f"records {other['id']} and {one['id']} of row {one['row']!r} come from different versions of the notebook's "
                f"code; their mean would mean nothing. Remove the older one from {folder.name}/{RECORDS}, and its run's "
                "folder, and run it again"
            )
        if other is not one and (a != b or other["seed"] == one["seed"]):
            differs = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
            raise ValueError(
                f"records {other['id']} and {one['id']} of row {one['row']!r} differ in {', '.join(differs) or 'nothing'}; "
                f"remove the older one from {folder.name}/{RECORDS}, or give the new runs a row of their own"
            )


def _comparable(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Parameters without the seed; paths as their contents where both records have them, else as the last part."""
    own, others = one.get("contents") or {}, other.get("contents") or {}
    return {**without_folders(one["parameters"]), **{name: own[name] for name in own if name in others}, "seed": None}


def _tail(log: Path) -> list[str]:
    """The last lines of a log; of absolute paths only the last part is kept."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    lines = [line.split("\r")[-1] for line in lines]
    return without_folders(lines[-TAIL:])
