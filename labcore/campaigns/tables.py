"""Tables of a campaign, made from its records alone: mean over seeds, and differences from a baseline, paired by seed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from labcore.campaigns.interval import Interval, mean_interval, paired
from labcore.campaigns.records import Record
from labcore.campaigns.spec import TableSpec

Cells = dict[tuple[str, str], Interval]
"""(row, title of the column) -> the interval in this cell."""


class _Table(NamedTuple):
    """The contents of both kinds of table.

    rows: in the table's order. not_run: rows of the spec without a record. other_code: rows that were run with another
    version of the notebook's code than the baseline, or than the first row if there is no baseline.
    """

    layout: TableSpec
    rows: list[str]
    means: Cells
    differences: Cells
    not_run: list[str]
    other_code: list[str]


def metric(result: dict[str, Any], path: str) -> float | None:
    """Return the number at a dotted path (`bayes.accuracy`, `sites.0.accuracy`); None if there is no number."""
    value: Any = result
    for key in path.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def by_seed(records: Sequence[Record], row: str, path: str) -> dict[int, float]:
    """Return the numbers of a row at a dotted path by seed; records without such a number are left out."""
    of_row = [one for one in records if one["row"] == row]
    numbers = [(one["seed"], metric(one["metrics"], path)) for one in of_row]
    return {seed: number for seed, number in numbers if number is not None}


def tables(records: Sequence[Record], layout: TableSpec, rows: Sequence[str] = ()) -> dict[str, str]:
    """Make table.md and table.csv from records.

    rows: the spec's rows; they come first, in this order, and all other rows follow by name. A note below table.md names
    the rows without a record.
    """
    with_record = {record["row"] for record in records}
    not_run = [row for row in rows if row not in with_record]
    if layout.each is not None:
        records = exploded(_in_order(records, rows), layout.each)
        rows = list(dict.fromkeys(record["row"] for record in records))
    table_rows = {record["row"] for record in records}
    order = [row for row in rows if row in table_rows] + sorted(table_rows - set(rows))
    values = {}
    for row in order:
        for title, path in layout.columns.items():
            values[row, title] = by_seed(records, row, path)
    means = {cell: mean_interval(list(numbers.values())) for cell, numbers in values.items() if numbers}
    differences, other_code = _differences(values, layout.baseline), _other_code(records, order, layout)
    table = _Table(layout, order, means, differences, not_run, other_code)
    return {"table.md": _markdown(table), "table.csv": _csv(table)}


def exploded(records: Sequence[Record], each: str) -> list[Record]:
    """Make a record of every entry of `each` in the records' metrics, in a row with the entry's name.

    If an entry's name does not begin with the name of its run's row, that name is added in parentheses.
    """
    entries = []
    for record in records:
        for name, entry in record["metrics"][each].items():
            row = name if name.startswith(record["row"]) else f"{name} ({record['row']})"
            entries.append({**record, "row": row, "metrics": entry})
    return entries


def _in_order(records: Sequence[Record], rows: Sequence[str]) -> list[Record]:
    """Sort records by the order of their rows; records of other rows come last."""
    places = {row: place for place, row in enumerate(rows)}
    return sorted(records, key=lambda record: places.get(record["row"], len(places)))


def _differences(values: dict[tuple[str, str], dict[int, float]], baseline: str | None) -> Cells:
    """Return the differences from the baseline, paired by seed; cells that share no seed with it have none."""
    differences = {}
    for (row, title), numbers in values.items():
        if row != baseline and (baseline, title) in values:
            difference = paired(numbers, values[baseline, title])
            if difference is not None:
                differences[row, title] = difference
    return differences


def _other_code(records: Sequence[Record], order: Sequence[str], layout: TableSpec) -> list[str]:
    codes = {record["row"]: record.get("code") for record in records}
    reference = layout.baseline if layout.baseline in codes else next(iter(order), None)
    return [row for row in order if codes[row] != codes[reference]]


def _best(table: _Table) -> dict[str, float]:
    """Return the best mean of each column. A column whose cells differ in n has none: the seeds would decide."""
    best = {}
    for title, direction in table.layout.better.items():
        cells = [table.means[row, title] for row in table.rows if (row, title) in table.means]
        same_n = len({cell.n for cell in cells}) == 1
        if len(cells) > 1 and same_n and cells[0].n > 1:
            means = [cell.mean for cell in cells]
            best[title] = max(means) if direction == "higher" else min(means)
    return best


def _markdown(table: _Table) -> str:
    best = _best(table)
    heads = ["row"]
    for title in table.layout.columns:
        heads.append(title)
        if table.differences:
            heads.append(f"difference from {table.layout.baseline}")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += [_markdown_row(table, row, best) for row in table.rows]
    return "\n".join([*lines, "", _note(table, bool(best))]) + "\n"


def _markdown_row(table: _Table, row: str, best: dict[str, float]) -> str:
    cells = [row]
    for title in table.layout.columns:
        mean = table.means.get((row, title))
        text = _cell(mean) if mean else "-"
        cells.append(f"**{text}**" if mean and best.get(title) == mean.mean else text)
        if table.differences:
            difference = table.differences.get((row, title))
            cells.append(_cell(difference, signed=True) if difference else "-")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _note(table: _Table, bold: bool) -> str:
    """Say how to read the table."""
    note = "Mean ± half of its 95% interval (Student's t) over n seeds."
    if bold:
        note += " Bold: the best mean of a column, however small its lead."
    if table.differences:
        note += " Differences are paired by seed, with their own interval; * marks one that excludes 0."
    if table.other_code:
        note += f" Run with another version of the notebook's code than the other rows: {'; '.join(table.other_code)}."
    if table.not_run:
        note += f" Not run: {'; '.join(table.not_run)}."
    return note


def _cell(value: Interval, signed: bool = False) -> str:
    """Write "0.8421 ± 0.0032 (n=3)"; of a difference also its sign, and * if its interval excludes 0."""
    return f"{value.text(signed)} (n={value.n}){'*' if signed and value.excludes_zero else ''}"


def _csv(table: _Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["mean", "half", "n"]
    writer.writerow(["row", "column", *names, *(f"difference_{name}" for name in names)])
    for row in table.rows:
        for title in table.layout.columns:
            mean = table.means.get((row, title)) or (None,) * 3
            difference = table.differences.get((row, title)) or (None,) * 3
            writer.writerow([row, title, *map(_number, mean), *map(_number, difference)])
    return out.getvalue()


def _number(value: float | int | None) -> str:
    return "" if value is None else f"{value:.10g}"
