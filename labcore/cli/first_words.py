"""First output of a command, before long work: data, model, device, and origin of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from labcore.presets import DEFAULT
from labcore.terminal import printable


def say_first(text: str) -> None:
    """Print a text, in the first of several processes only."""
    from labcore.processes import is_first_process

    if is_first_process():
        typer.echo(printable(text))


def measured(model: str, flow: Any, source: Any, limit: int | None) -> str:
    """Name the images that a model is measured on, the model, and the device.

    model: as the user named it. flow: the model. source: a `labcore.data.datasets.Data`. limit: images of a split; None: all.
    """
    from labcore.flows.tarflow import TarFlow
    from labcore.provenance import device_name

    c = flow.config
    some = "" if limit is None else f", at most {limit:,} images of a split, evenly spread"
    kind = "flow" if isinstance(flow, TarFlow) else "student of a flow"
    parameters = sum(each.numel() for each in flow.parameters())
    size = " x ".join(map(str, c.image_shape)) + (" images" if c.codec is None else f" latents of {c.codec}")
    return (
        f"data: {source}{some}\nmodel: {model}, a {kind} with {parameters:,} parameters, for {size}\n"
        f"device: {device_name()}"
    )


def settings_of_run(preset: str | None, config: Path | None, invert: str | None, settings: Sequence[str]) -> str:
    """Say where the settings of a run come from: the options of `lab train`."""
    if config is not None:
        base = f"file {config}"
    elif invert is not None and preset is None:
        base = "defaults of a student"
    else:
        base = f"preset {preset or DEFAULT}"
    return ", ".join([base, *settings])
