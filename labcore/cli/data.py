"""`lab data`: thin over labcore.data.report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the command."""
    app.command("data")(plain_errors(data))


def data(
    source: Annotated[str, typer.Argument(help="A folder, a data set's name, or a preset for its data.")],
    image_size: Annotated[
        int | None,
        typer.Option(help="Side in pixels at which pictures are read and compared; default 32 for a folder."),
    ] = None,
    channels: Annotated[int | None, typer.Option(help="1 grey, 3 RGB; default 3 for a folder.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting, as in data.test_share=0.2.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.json and sheet.png.")] = Path("outputs/data"),
) -> None:
    """Look at every picture before training: classes, sizes, colours, transparency, duplicates, damage, a contact sheet."""
    from labcore.data.datasets import Data
    from labcore.data.report import examine
    from labcore.files import check_file
    from labcore.jsonfile import write_json
    from labcore.progress import show_progress, table
    from labcore.runs.configure import DataOptions, configure_data
    from labcore.runs.data_report import class_lines, report_rows
    from labcore.terminal import printable
    from labcore.viz.contact_sheet import save_contact_sheet

    config = configure_data(DataOptions(source, image_size, channels), set_ or ())
    for name in ("report.json", "sheet.png"):
        check_file(out / name)
    found = examine(Data.of(config), config.limit, show_progress())
    for line in class_lines(found):
        typer.echo(printable(line))
    typer.echo("")
    typer.echo(printable(table(report_rows(found, config))))
    write_json(out / "report.json", found.record())
    shown = save_contact_sheet(found.samples, found.classes, out / "sheet.png")
    some = f" of the first {shown} classes" if shown < len(found.classes) else ""
    typer.echo(printable(f"report and contact sheet{some} in {out}"))
