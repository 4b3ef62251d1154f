"""`lab compare`: a page about many runs, thin over labcore.runs.comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the command."""
    app.command("compare")(plain_errors(compare))


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, finished or not, as runs/first runs/second.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("outputs/compare.html"),
) -> None:
    """Write one page about runs: curves, newest samples, measured numbers, settings that differ. It needs no network."""
    from labcore.files import check_file, write_atomic
    from labcore.runs.comparison import comparison_page
    from labcore.runs.run_record import read_runs
    from labcore.terminal import printable

    check_file(out)
    found = read_runs(runs)
    write_atomic(out, comparison_page(found))
    for run in found:
        for note in run.notes:
            typer.echo(printable(f"note: {run.name}: {note}"), err=True)
    typer.echo(printable(f"{len(found)} {'runs' if len(found) > 1 else 'run'} in {out}; open it in a browser"))
