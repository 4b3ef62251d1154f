"""Named runs, with cost and expected numbers: small ones of our own, ml-tarflow's, and the rows of the papers' tables.

`PRESETS` train a flow and `INVERSIONS` the learned inverse of one; each has the sections of its run's configuration.
"""

from __future__ import annotations

from typing import Any

from labcore.config import InversionRunConfig, RunConfig
from labcore.runs.presets import biflow, flowback
from labcore.runs.presets.small import MEASURED, SMALL

__all__ = ["INVERSIONS", "MEASURED", "PAPER", "PRESETS", "SMALL", "about", "smoke", "smoke_inversion"]

PAPER: dict[str, flowback.Row] = {row.name: row for row in flowback.ROWS}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    **SMALL,
    **biflow.FLOWS,
    **{row.name: flowback.sections(row) for row in flowback.ROWS},
}
INVERSIONS: dict[str, dict[str, Any]] = {row.name: biflow.sections(row) for row in biflow.ROWS}
_ROWS = {row.name: row for row in biflow.ROWS}


def about(name: str) -> tuple[str, str, str]:
    """Command, cost, and expected numbers of a preset, "unknown" where nobody has measured them."""
    if (inverse := _ROWS.get(name)) is not None:
        command = f"lab train --preset {name} --invert {inverse.flow} --out runs/{name}"
        return command, inverse.cost, inverse.expected
    if (row := PAPER.get(name)) is not None:
        command = f"lab train --preset {name} --data IMAGENET_FOLDER --out runs/{name}"
        return command, flowback.COSTS[row.thousands], str(row.paper)
    return f"lab train --preset {name} --out runs/{name}", *{**biflow.ABOUT, **MEASURED}.get(
        name, ("unknown", "unknown")
    )


def smoke(config: RunConfig) -> RunConfig:
    """A run's smoke size: two steps of four 16x16 pictures of the embedded set, a width of 32, the embedded encoder.

    Blocks, layers, sites, directions and losses stay, so the code of the full run is what runs.
    """
    model = config.model.replace(**_small_images(config.model.channels), width=32, head_dim=16)
    align = None
    if config.align:
        align = config.align.replace(encoder="efficientnet-lite0", targets="computed").model_dump()
    return RunConfig(model=model.model_dump(), **_few_steps(config, model.channels), align=align)


def smoke_inversion(config: InversionRunConfig, flow: str) -> InversionRunConfig:
    """The same of a learned inverse, of a flow at its own smoke size; perceptual distances are the embedded encoder's."""
    model = config.model.replace(**_small_images(config.model.channels), width=32, head_dim=16)
    perceptual = {"efflite0": 1.0} if config.inversion.perceptual else {}
    inversion = config.inversion.replace(perceptual=perceptual).model_dump()
    return InversionRunConfig(
        flow=flow, model=model.model_dump(), **_few_steps(config, model.channels), inversion=inversion
    )


def _small_images(channels: int) -> dict[str, int]:
    return dict(image_size=16, num_classes=10, channels=channels if channels == 3 else 1)  # latents have 4


def _few_steps(config: RunConfig | InversionRunConfig, channels: int) -> dict[str, Any]:
    few = dict(steps=2, batch_size=4, warmup_steps=1, log_every=1, eval_every=2, save_every=2, precision="fp32")
    data = dict(name="fashion-mnist-12k", image_size=16, channels=channels, flip=config.data.flip)
    return dict(data=data, train=config.train.replace(**few).model_dump())
