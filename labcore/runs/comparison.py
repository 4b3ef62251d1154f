"""A page that compares runs: curves, newest samples, measured numbers and settings, in one file that needs no network.

The page has no script. It follows the reader's light or dark theme, fits narrow screens, and a box before each run hides it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from labcore import __version__
from labcore.runs.comparison_style import style
from labcore.runs.run_record import Measure, RunRecord
from labcore.train.log import training_seconds
from labcore.viz.curve_svg import MOST, Curve, curve_svg

FIRST = ("loss", "nats_per_dim")
"""Curves that come first, before those of the test set and of alignment; the others are folded."""
UNSET = "none"


def comparison_page(runs: Sequence[RunRecord]) -> str:
    """Return the page as HTML. Runs are in the given order; what is missing or damaged in one is said under its name."""
    title = f"Comparison of {len(runs)} runs" if len(runs) > 1 else f"The run {runs[0].name}"
    sections = {
        "Runs": _legend(runs),
        "Curves": _curves(runs),
        "Samples": _samples(runs),
        "Numbers": _numbers(runs),
        "Settings": _settings(runs),
    }
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
    body = "".join(f'<section id="{name.lower()}"><h2>{name}</h2>{text}</section>' for name, text in sections.items())
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><style>{style(len(runs))}</style></head>\n'
        f'<body><header><h1>{escape(title)}</h1><nav aria-label="Sections">{links}</nav></header>\n<main>{body}</main>\n'
        f"<footer>Made by labcore {__version__}, <code>lab compare</code>.</footer></body></html>\n"
    )


def _legend(runs: Sequence[RunRecord]) -> str:
    """The runs with their colours, how far they are, and what is missing or damaged."""
    items = []
    for number, run in enumerate(runs, 1):
        notes = "".join(f"<li>{escape(note)}</li>" for note in run.notes)
        items.append(
            f'<li><label><input type="checkbox" id="show-{number}" autocomplete="off" checked> {_swatch(number)} '
            f'<b>{escape(run.name)}</b></label> <span class="status">{escape(run.status)}</span>'
            + (f'<ul class="notes">{notes}</ul>' if notes else "")
            + "</li>"
        )
    hint = "<p>A box that is not ticked hides its run in the curves, samples and tables.</p>" if len(runs) > 1 else ""
    return f'{hint}<ul class="legend">{"".join(items)}</ul>'


def _swatch(number: int) -> str:
    """A piece of the line that is a run's curve."""
    return f'<svg class="swatch" viewBox="0 0 36 8" aria-hidden="true"><path class="run-{number}" d="M0,4H36"/></svg>'


def _curves(runs: Sequence[RunRecord]) -> str:
    """One chart for each number of the log; numbers that say less about quality are folded."""
    main, rest = _keys(runs)
    if not main and not rest:
        return "<p>No run has logged a number.</p>"
    names = "".join(f'<span class="run-{i}">{_swatch(i)} {escape(run.name)}</span>' for i, run in enumerate(runs, 1))
    more = ""
    if rest:
        more = f"<details><summary>More curves: {escape(', '.join(rest))}</summary>{_charts(rest, runs)}</details>"
    return (
        f"<p class=key>{names}</p>{_charts(main, runs)}{more}<p class=note>"
        "Values of the first 5% of the steps may lie outside a chart. Of curves with "
        f"more than {MOST} records, the smallest and largest value of each group of neighbours are drawn. Numbers of single "
        "blocks are in log.jsonl.</p>"
    )


def _keys(runs: Sequence[RunRecord]) -> tuple[list[str], list[str]]:
    """Return the names of logged numbers: losses and evaluations, and the others."""
    keys = list(dict.fromkeys(key for run in runs for key in run.keys if run.points(key)))
    main = [key for key in keys if key in FIRST or key.startswith(("test_", "align"))]
    main.sort(key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
    return main, [key for key in keys if key not in main]


def _charts(keys: Iterable[str], runs: Sequence[RunRecord]) -> str:
    charts = []
    for key in keys:
        curves = [Curve(f"run-{number}", run.name, run.points(key)) for number, run in enumerate(runs, 1)]
        charts.append(f"<figure><figcaption>{escape(key)}</figcaption>{curve_svg(key, curves)}</figure>")
    return f'<div class="charts">{"".join(charts)}</div>'


def _samples(runs: Sequence[RunRecord]) -> str:
    """The newest grid of samples of each run."""
    figures = []
    for number, run in enumerate(runs, 1):
        name = f"<b>{escape(run.name)}</b>"
        if run.preview is None:
            figures.append(f'<figure class="run-{number}"><figcaption>{name}: no samples</figcaption></figure>')
            continue
        step, png, (width, height) = run.preview
        figures.append(
            f'<figure class="run-{number}"><figcaption>{name}, step {step:,}</figcaption>'
            f'<img width="{width}" height="{height}" alt="Grid of samples of {escape(run.name)} at step {step:,}" '
            f'src="data:image/png;base64,{b64encode(png).decode()}"></figure>'
        )
    return f'<div class="samples">{"".join(figures)}</div>'


def _numbers(runs: Sequence[RunRecord]) -> str:
    """The last value of each number of the log, and all numbers of `lab evaluate`."""
    main, rest = _keys(runs)
    logged = [*main, *(key for key in rest if key not in ("lr", "seconds_per_step"))]
    measured = list(dict.fromkeys(name for run in runs for name in run.measures))
    rows = []
    for run in runs:
        last = max([record["step"] for record in run.records], default=None)
        seconds = training_seconds(run.records)
        cells = ["–" if last is None else f"{last:,}", f"{seconds / 60:.1f}" if seconds else "–"]
        cells += [_last(run, key, last) for key in logged]
        cells += [_measured(run.measures.get(name)) for name in measured]
        rows.append(cells)
    table = _table(runs, ["last step", "minutes", *logged, *measured], rows)
    words = "The last value of each number in log.jsonl, with its step in brackets where that is not the last step."
    if measured:
        words += (
            " Then the numbers of the records of <code>lab evaluate</code> in the run's folder, with their intervals."
        )
    return f"<p>{words}</p>{table}"


def _last(run: RunRecord, key: str, end: int | None) -> str:
    points = run.points(key)
    if not points:
        return "–"
    step, value = points[-1]
    return f"{value:.5g}" if step == end else f"{value:.5g} ({step:,})"


def _measured(found: Measure | None) -> str:
    if found is None:
        return "–"
    interval = "" if found.low is None or found.high is None else f" ({found.low:.4g} to {found.high:.4g})"
    return f"{found.value:.4g}{interval}"


def _settings(runs: Sequence[RunRecord]) -> str:
    """The settings that differ, one row a run; the settings that all runs share, once."""
    known = [run for run in runs if run.settings]
    names = list(dict.fromkeys(name for run in known for name in run.settings))
    values = {name: [_text(run.settings.get(name, UNSET)) for run in known] for name in names}
    differ = [name for name in names if len(set(values[name])) > 1]
    parts = []
    if differ:
        rows = [[_text(run.settings.get(name, UNSET)) if run.settings else "?" for name in differ] for run in runs]
        parts.append(f"<p>Settings that differ:</p>{_table(runs, differ, rows, 'settings')}")
    elif len(known) > 1:
        parts.append("<p>No setting differs.</p>")
    if unknown := [run.name for run in runs if not run.settings]:
        parts.append(f"<p>The settings of {escape(', '.join(unknown))} are unknown.</p>")
    same = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(texts[0])}</td></tr>"
        for name, texts in values.items()
        if name not in differ
    )
    if same:
        head = "Settings that all these runs share" if len(known) > 1 else "Settings"
        parts.append(
            f"<details><summary>{head}</summary>{_scrolled(f'<table class=settings>{same}</table>', head)}</details>"
        )
    return "".join(parts)


def _table(runs: Sequence[RunRecord], heads: Sequence[str], rows: Sequence[Sequence[str]], css: str = "numbers") -> str:
    """A table with one row a run, which scrolls sideways on a narrow screen."""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in ("run", *heads))
    body = []
    for number, (run, cells) in enumerate(zip(runs, rows, strict=True), 1):
        values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        body.append(f'<tr class="run-{number}"><th scope=row>{_swatch(number)} {escape(run.name)}</th>{values}</tr>')
    return _scrolled(
        f"<table class={css}><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>", "Table of the runs"
    )


def _scrolled(table: str, label: str) -> str:
    return f'<div class="scrolled" role="region" aria-label="{label}" tabindex="0">{table}</div>'


def _text(value: Any) -> str:
    """A setting as it is written on the command line."""
    if value is None:
        return UNSET
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(f"({_text(item)})" if isinstance(item, list) else _text(item) for item in value) or "empty"
    return str(value)
