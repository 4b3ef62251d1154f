"""Main figure of a campaign: differences from a baseline, paired by seed, with 95% confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from labcore.viz import style
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BETTER, WORSE, UNDECIDED = style.COLOURS["blue"], style.COLOURS["red"], "#777777"
COLUMNS = 4
"""Most panels in a row; with more, the names of rows would be too small to read in a seminar room."""


@_styled
def differences(found: Mapping[Any, Mapping[str, Any]], rows: Sequence[str], than: str) -> Figure:
    """Draw differences from a baseline: one panel for each measure, one line for each row of a table.

    Blue: the whole interval is on the better side of 0. Red: it is on the worse side. Grey: it contains 0, or the measure has
    no better side. Open circle: the network that computes the measure also took part in training the row.

    Args:
        found: {measure: {row: difference}} of `labcore.experiments.evidence.differences`. A measure has `title` and `better`
            ("lower", "higher" or None); a difference has `mean`, `half` (None for one seed) and `taught`.
        rows: names of all rows in order. Rows without numbers have no line; the text below the panels names them.
        than: name of the baseline.

    Without any difference, the figure says so.
    """
    shown = [row for row in rows if any(row in by_row for by_row in found.values())]
    if not shown:
        return _nothing(f"no row has a record with the same random seed as {than}: nothing to compare yet")
    columns = min(COLUMNS, len(found))
    lines = -(-len(found) // columns)
    missing = "; ".join(row for row in rows if row not in shown)
    missing = fill(f"nothing to compare yet: {missing}", 100) if missing else ""
    figure = _figure((style.WIDTH, lines * (1.35 + 0.44 * len(shown)) + 0.6 + 0.2 * len(missing.splitlines())))
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    for axes, (measure, by_row) in zip(panels, found.items(), strict=False):
        _panel(axes, measure, by_row, shown)
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    panels[0].set_ylim(len(shown) - 0.5, -0.5)
    for first in panels[::columns]:
        first.set_yticks(range(len(shown)), [fill(row, 24) for row in shown], fontsize=12)
    title = f"difference from {than}, paired by seed, with 95% confidence intervals"
    figure.suptitle(fill(title, 84), fontsize=14)
    how = dict(ncols=4, fontsize=12, title_fontsize=12, columnspacing=1.2)
    figure.legend(handles=_legend(), title=missing, loc="outside lower center", **how)
    return figure


def _nothing(words: str) -> Figure:
    figure = _figure((style.WIDTH, 1.2))
    figure.text(0.5, 0.5, words, ha="center", va="center", fontsize=13)
    return figure


def _panel(axes: Axes, measure: Any, by_row: Mapping[str, Any], rows: Sequence[str]) -> None:
    axes.axvline(0, color="black", linewidth=1.2)
    for place, row in enumerate(rows):
        if (one := by_row.get(row)) is None:
            continue
        colour = _colour(one, measure.better)
        face = "white" if one.taught else colour
        how = dict(fmt="o", color=colour, markerfacecolor=face, markersize=8, elinewidth=2.6, markeredgewidth=2)
        axes.errorbar(one.mean, place, xerr=one.half, capsize=0, **how)
    arrow = {"lower": "\n$\\leftarrow$ better", "higher": "\nbetter $\\rightarrow$", None: "\n"}[measure.better]
    axes.set_title(measure.title, fontsize=13)
    axes.set_xlabel(arrow.strip() or "neither side is better", fontsize=12)
    axes.locator_params(axis="x", nbins=2)
    axes.xaxis.set_major_formatter("{x:g}")  # longer numbers would run into each other
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)


def _colour(one: Any, better: str | None) -> str:
    if better is None or one.half is None or abs(one.mean) <= one.half:
        return UNDECIDED
    return BETTER if (one.mean > 0) == (better == "higher") else WORSE


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    dot = dict(marker="o", markersize=8, linewidth=2.6, markeredgewidth=2)
    return [
        Line2D([], [], color=BETTER, label="better", **dot),
        Line2D([], [], color=WORSE, label="worse", **dot),
        Line2D([], [], color=UNDECIDED, label="undetermined", **dot),
        Line2D([], [], color="black", markerfacecolor="white", label="its judge took part in training", **dot),
    ]
