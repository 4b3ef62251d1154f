"""`lab export`: a model as one file that runs without labcore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from labcore.cli.draw import Model


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the command."""
    app.command("export")(plain_errors(export))


def export(
    model: Model,
    out: Annotated[
        Path, typer.Option(help="File to write: .onnx for onnxruntime, or .pt2 for torch.export (a student only).")
    ],
    block: Annotated[
        int | None,
        typer.Option(
            help="Number of a flow's block, from 1: its affine parameters instead of the forward pass.", min=1
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Number format of the weights in an .onnx file: float16 (default) or float32.")
    ] = None,
) -> None:
    """Write a student's pass, a flow's forward pass, or one block's parameters as a graph for any batch size."""
    from labcore.biflow.export import export as export_by_torch
    from labcore.biflow.model import BackwardModel
    from labcore.hub import onnx
    from labcore.runs.models import find_sampler

    found = find_sampler(model)
    student = isinstance(found, BackwardModel)
    if student and block is not None:
        raise ValueError(f"--block was {block}, and {model} is a student, which is exported whole; leave --block out")
    if out.suffix == ".pt2":
        if not student or weights is not None:
            raise ValueError(f"--out was {out}; a flow, and --weights, need a file that ends in .onnx")
        written = export_by_torch(found, out)
    elif student:
        written = onnx.export_student(found, out, weights or "float16")
    elif block is None:
        written = onnx.export_forward(found, out, weights or "float16")
    else:
        written = onnx.export_block(found, block, out, weights or "float16")
    typer.echo(f"{written}: {written.stat().st_size / 1e6:.1f} MB")
