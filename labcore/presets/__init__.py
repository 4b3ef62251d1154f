"""Named runs, with cost and expected numbers: small ones of our own, ml-tarflow's, and the rows of the papers' tables.

`PRESETS` train a flow, `STUDENTS` the student of one, and `ALL` has both. Each has the sections of its run's
configuration.
"""

from __future__ import annotations

from typing import Any

from labcore.presets import biflow, colour, flowback, small, tarflow
from labcore.presets.paper import UNREPORTED, Paper, expected
from labcore.presets.small import DEFAULT

__all__ = [
    "ALL",
    "DEFAULT",
    "MEASURED",
    "PAPER",
    "PRESETS",
    "REPORTED",
    "SMALL",
    "STUDENTS",
    "UNREPORTED",
    "Paper",
    "about",
]

SMALL: dict[str, dict[str, Any]] = {**small.SMALL, **colour.COLOUR}
"""Presets of our own, which no paper has."""
MEASURED = {**small.MEASURED, **colour.MEASURED}
"""Cost and numbers of small presets that have been run unchanged."""
PAPER: dict[str, flowback.Row] = {row.name: row for row in flowback.ROWS}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    **SMALL,
    **tarflow.PUBLISHED,
    **biflow.FLOWS,
    **{row.name: flowback.sections(row) for row in flowback.ROWS},
    **{row.name: flowback.latent_sections(row) for row in flowback.LATENT_ROWS},
}
STUDENTS: dict[str, dict[str, Any]] = {row.name: biflow.sections(row) for row in biflow.ROWS}
ALL: dict[str, dict[str, Any]] = {**PRESETS, **STUDENTS}
"""Presets of every kind of run; `labcore.kinds.kind_of_sections` says which kind one is of."""
_TOLD: dict[str, tuple[str, str]] = {
    **MEASURED,
    **biflow.ABOUT,
    **{name: (cost, expected(tarflow.PAPERS[name])) for name, cost in tarflow.COSTS.items()},
    **{name: (biflow.UNKNOWN, expected(papers)) for name, papers in biflow.FLOW_PAPERS.items()},
    **{row.name: (flowback.COSTS[row.thousands], expected(flowback.papers(row))) for row in flowback.ROWS},
    **{row.name: (row.cost, expected(flowback.papers(row))) for row in flowback.LATENT_ROWS},
    **{row.name: (row.cost, row.expected) for row in biflow.ROWS},
}
"""Cost and expected numbers of presets."""
REPORTED: dict[str, tuple[Paper, ...]] = {
    **tarflow.PAPERS,
    **biflow.FLOW_PAPERS,
    **{row.name: flowback.papers(row) for row in (*flowback.ROWS, *flowback.LATENT_ROWS)},
    **{row.name: row.papers for row in biflow.ROWS},
}
"""Numbers that papers report for their presets: one entry for each way of drawing images. A number is in one entry only."""


def about(name: str) -> tuple[str, str, str]:
    """Return command, cost, and expected numbers of a preset; "unknown" if cost or numbers were not measured."""
    sections = ALL[name]
    data = " --data IMAGE_FOLDER" if sections.get("data", {}).get("name") == "folder" else ""
    teacher = f" --invert {sections['flow']}" if "flow" in sections else ""
    return f"lab train --preset {name}{data}{teacher} --out runs/{name}", *_TOLD.get(name, ("unknown", "unknown"))
