"""`lab import`: a checkpoint of ml-tarflow as one of the lab's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the command."""
    app.command("import")(plain_errors(import_))


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="The .pth file that ml-tarflow's train.py saved, or one of GS-Jacobi's authors.")
    ],
    out: Annotated[Path, typer.Option(help="New or empty folder for the model.")],
    patch_size: Annotated[
        int | None,
        typer.Option(
            help="Patch size of the training; default: read from a name like afhq_model_8_768_8_8_0.07.pth.", min=1
        ),
    ] = None,
    noise_std: Annotated[
        float | None,
        typer.Option(help="Noise of the training, 0 for uniform noise; default: read from such a name.", min=0.0),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Name of the model, if the file holds several, such as ema and model.")
    ] = None,
) -> None:
    """Convert a checkpoint of ml-tarflow to the lab's format. Every weight is checked; sizes come from the file."""
    from labcore.flows.apple import settings_in_name
    from labcore.flows.tarflow import TarFlow

    from_name = settings_in_name(checkpoint)
    given = {"patch_size": patch_size, "noise_std": noise_std}
    for name, value in given.items():
        if value is None and name not in from_name:
            raise ValueError(
                f"{name} cannot be inferred from an ml-tarflow checkpoint or from the name {checkpoint.name}; give "
                f"--{name.replace('_', '-')} as it was in training (patch 2, noise 0.05 for ImageNet 64; 4, 0.15 for 128; 8, "
                "0.07 for AFHQ 256)"
            )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; give a new or empty folder")
    used = {**from_name, **{name: value for name, value in given.items() if value is not None}}
    flow = TarFlow.from_apple(checkpoint, None, int(used["patch_size"]), noise_std=used["noise_std"], part=part)
    c = flow.config
    sizes = ("width", "num_blocks", "layers_per_block")
    if from_name and None in given.values() and any(getattr(c, name) != from_name[name] for name in sizes):
        raise ValueError(
            f"{checkpoint.name} names {'-'.join(str(from_name[name]) for name in sizes)}, and the file holds "
            f"{'-'.join(str(getattr(c, name)) for name in sizes)}: the name belongs to another model. Give --patch-size and "
            "--noise-std"
        )
    flow.save_pretrained(out)
    classes = f"{c.num_classes} classes" if c.num_classes else "no classes"
    typer.echo(
        f"{c.patch_size}-{c.width}-{c.num_blocks}-{c.layers_per_block} for {c.image_size} x {c.image_size} images of "
        f"{c.channels} channels, {classes}, noise {c.noise_std:g}: {sum(p.numel() for p in flow.parameters()):,} parameters"
    )
    typer.echo(f"saved in {out}; try  lab sample {out}{' --guidance 2 --schedule linear' if c.num_classes else ''}")
