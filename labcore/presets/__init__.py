"""Named runs, with cost and expected numbers: small ones of our own, ml-tarflow's, and the rows of the papers' tables.

`PRESETS` train a flow and `STUDENTS` the learned inverse of one; each has the sections of its run's configuration.
"""

from __future__ import annotations

from typing import Any

from labcore.config import RunConfig, StudentRunConfig, TokensConfig
from labcore.latents.weights import RANDOM
from labcore.presets import biflow, flowback, tarflow
from labcore.presets.paper import UNREPORTED, Paper, expected
from labcore.presets.small import MEASURED, SMALL

__all__ = [
    "MEASURED",
    "PAPER",
    "PRESETS",
    "REPORTED",
    "SMALL",
    "STUDENTS",
    "UNREPORTED",
    "Paper",
    "about",
    "smoke",
    "smoke_student",
]

PAPER: dict[str, flowback.Row] = {row.name: row for row in flowback.ROWS}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    **SMALL,
    **tarflow.PUBLISHED,
    **biflow.FLOWS,
    **{row.name: flowback.sections(row) for row in flowback.ROWS},
    **{row.name: flowback.latent_sections(row) for row in flowback.LATENT_ROWS},
}
SMOKE_IMAGES = 64
STUDENTS: dict[str, dict[str, Any]] = {row.name: biflow.sections(row) for row in biflow.ROWS}
_ROWS = {row.name: row for row in biflow.ROWS}
_TOLD: dict[str, tuple[str, str]] = {
    **MEASURED,
    **biflow.ABOUT,
    **{name: (cost, expected(tarflow.PAPERS[name])) for name, cost in tarflow.COSTS.items()},
    **{name: (biflow.UNKNOWN, expected(papers)) for name, papers in biflow.FLOW_PAPERS.items()},
    **{row.name: (flowback.COSTS[row.thousands], expected(flowback.papers(row))) for row in flowback.ROWS},
    **{row.name: (row.cost, expected(flowback.papers(row))) for row in flowback.LATENT_ROWS},
}
"""Cost and expected numbers of flows."""
REPORTED: dict[str, tuple[Paper, ...]] = {
    **tarflow.PAPERS,
    **biflow.FLOW_PAPERS,
    **{row.name: flowback.papers(row) for row in (*flowback.ROWS, *flowback.LATENT_ROWS)},
    **{row.name: row.papers for row in biflow.ROWS},
}
"""What papers report of presets that are theirs, as numbers: one entry for each way of drawing. Each number is in one entry."""


def about(name: str) -> tuple[str, str, str]:
    """Command, cost, and expected numbers of a preset, "unknown" where nobody has measured them."""
    if (inverse := _ROWS.get(name)) is not None:
        command = f"lab train --preset {name} --invert {inverse.flow} --out runs/{name}"
        return command, inverse.cost, inverse.expected
    data = " --data IMAGE_FOLDER" if PRESETS[name].get("data", {}).get("name") == "folder" else ""
    return f"lab train --preset {name}{data} --out runs/{name}", *_TOLD.get(name, ("unknown", "unknown"))


def smoke(config: RunConfig) -> RunConfig:
    """A run's smoke size: two steps of four 16x16 pictures of the embedded set, or of their latents by an autoencoder of
    random weights, a width of 32, and no encoder but the embedded one.

    Blocks, layers, sites, directions and losses stay, so the code of the full run is what runs.
    """
    model = config.model.replace(**_small_images(config.model), width=32, head_dim=16)
    align = None
    if config.align:
        targets = "computed" if model.codec is None else "cached"
        align = config.align.replace(encoder="efficientnet-lite0", targets=targets, image_size=None).model_dump()
    return RunConfig(model=model.model_dump(), **_few_steps(config), align=align)


def smoke_student(config: StudentRunConfig, flow: str) -> StudentRunConfig:
    """The same of a learned inverse, of a flow at its own smoke size; perceptual distances are the embedded encoder's."""
    model = config.model.replace(**_small_images(config.model), width=32, head_dim=16)
    perceptual = {"efflite0": 1.0} if config.student.perceptual else {}
    student = config.student.replace(perceptual=perceptual).model_dump()
    return StudentRunConfig(flow=flow, model=model.model_dump(), **_few_steps(config), student=student)


def _small_images(model: TokensConfig) -> dict[str, Any]:
    classes = 10 if model.num_classes else 0
    if model.codec is None:
        return dict(image_size=16, num_classes=classes)
    return dict(image_size=8, num_classes=classes, codec=RANDOM)  # 4 x 8 x 8 latents of 16 x 16 pixels


def _few_steps(config: RunConfig | StudentRunConfig) -> dict[str, Any]:
    channels = config.model.channels if config.model.codec is None else 3
    few = dict(
        steps=2, batch_size=4, warmup_steps=1, log_every=1, eval_every=2, save_every=2, precision="fp32", num_workers=0
    )
    data = dict(name="fashion-mnist-12k", image_size=16, channels=channels, limit=SMOKE_IMAGES, flip=config.data.flip)
    return dict(data=data, train=config.train.replace(**few).model_dump())
