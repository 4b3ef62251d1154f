"""`lab rehearse`: thin over labcore.rehearsal.rehearse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the command."""
    app.command("rehearse")(plain_errors(rehearse))


def rehearse(
    preset: Annotated[str, typer.Argument(help="A preset; `lab presets` lists them.")],
    data: Annotated[str | None, typer.Option(help="Images, as in lab train.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels, as in lab train.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 grey, 3 RGB, as in lab train.")] = None,
    flow: Annotated[
        str | None, typer.Option(help="The flow that a student inverts; default: the flow of its preset.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting, as in train.accumulation=4.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 20,
    images: Annotated[int, typer.Option(help="Number of images to draw after the training.")] = 4,
    seconds: Annotated[float, typer.Option(help="Training stops after this time, and nothing is drawn.")] = 600.0,
    processes: Annotated[
        int | None, typer.Option(help="GPUs of the whole run; the rehearsal uses one. Default: those of this machine.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="Price of one GPU for an hour, in any currency.")] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Use the preset's smoke size: takes seconds on any machine.")
    ] = False,
    synthetic: Annotated[
        bool,
        typer.Option(
            "--synthetic", help="Replace missing images and weights by random ones, to measure speed and memory."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for the run, images and record; default: nothing is kept.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the record.")] = None,
) -> None:
    """Check data, weights, disk and plan of a run; train a few steps of it here; estimate its days and price.

    Exit status: 0 after the trial; 1 if something is missing or does not fit; 2 for wrong options.
    """
    from labcore.rehearsal.rehearse import Asked
    from labcore.rehearsal.rehearse import rehearse as walk
    from labcore.runs.configure import DataOptions

    images_asked = DataOptions(data, image_size, channels)
    asked = Asked(preset, images_asked, flow, tuple(set_ or ()), smoke, synthetic, processes, price)
    found = walk(asked, steps, images, seconds, out, json_file, typer.echo)
    if found.trial is None:
        raise typer.Exit(1)
