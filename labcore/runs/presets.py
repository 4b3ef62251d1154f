"""Named runs: small ones of our own, ml-tarflow's, and every 64-pixel row of FlowBack's tables, with cost and expected numbers.

A preset has the sections of a run's configuration. FlowBack (arXiv 2511.22345) gives neither the warm-up nor the noise of its
64-pixel runs: an epoch, as ml-tarflow, and 0.05, as all public TARFlow configurations for 64 pixels. Clipping is off, as there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from labcore.config import RunConfig

SMALL: dict[str, dict[str, Any]] = {
    # our choice: the smallest flow whose samples look like garments after minutes on two CPU cores
    "fashion-small": {
        "model": dict(
            image_size=28,
            channels=1,
            patch_size=4,
            width=64,
            num_blocks=8,
            layers_per_block=2,
            head_dim=32,
            num_classes=10,
        ),
        "data": dict(name="fashion-mnist-12k"),
        "train": dict(
            steps=2000,
            batch_size=128,
            lr=2e-3,
            warmup_steps=100,
            weight_decay=1e-2,
            ema_decay=0.999,
            eval_every=500,
            save_every=500,
        ),
    },
    # our choice: FlowBack's 8 blocks, so that its positions mean something, in the size of minutes: 16 tokens
    "fashion-16": {
        "model": dict(
            image_size=16,
            channels=1,
            patch_size=4,
            width=64,
            num_blocks=8,
            layers_per_block=2,
            head_dim=32,
            num_classes=10,
        ),
        "data": dict(name="fashion-mnist-12k", image_size=16),
        "train": dict(
            steps=400,
            batch_size=128,
            lr=2e-3,
            warmup_steps=30,
            weight_decay=1e-2,
            ema_decay=0.99,
            eval_every=400,
            save_every=100,
            keep=20,
        ),
    },
    # the settings of ml-tarflow's MNIST notebook: 100 epochs of 60,000 images, one epoch of warm-up, no label dropout
    "ml-tarflow-28": {
        "model": dict(
            image_size=28, channels=1, patch_size=4, width=128, num_blocks=4, layers_per_block=4, num_classes=10
        ),
        "data": dict(name="fashion-mnist"),
        "train": dict(
            steps=23400,
            batch_size=256,
            lr=2e-3,
            warmup_steps=234,
            label_dropout=0.0,
            clip_norm=None,
            precision="fp32",
            seed=100,
        ),
    },
}

ALL_BLOCKS = tuple(range(1, 9))


class Paper(NamedTuple):
    """What FlowBack reports of a run: which table, FID, sFID and IS of 4,096 samples, training-free accuracy in percent."""

    table: str
    fid: float
    sfid: float | None
    inception: float | None
    accuracy: float

    def __str__(self) -> str:
        scores = {"FID": self.fid, "sFID": self.sfid, "IS": self.inception, "accuracy": f"{self.accuracy}%"}
        return f"{self.table}: " + ", ".join(f"{name} {score}" for name, score in scores.items() if score is not None)


class Row(NamedTuple):
    """A row of FlowBack's tables: direction (None: no alignment), aligned blocks, layer, encoder, thousands of steps."""

    direction: str | None
    blocks: tuple[int, ...]
    layer: int
    encoder: str
    thousands: int
    paper: Paper

    @property
    def name(self) -> str:
        """flowback-64-reverse-7-8-l6 and the like."""
        longer = "" if self.thousands == 400 else f"-{self.thousands}k"
        if self.direction is None:
            return f"flowback-64-baseline{longer}"
        where = "all" if self.blocks == ALL_BLOCKS else "-".join(map(str, self.blocks))
        encoder = "" if self.encoder == "dinov2-b" else f"-{self.encoder}"
        return f"flowback-64-{self.direction}-{where}-l{self.layer}{encoder}{longer}"


FIRST, LAST = (1, 2), (7, 8)
ROWS = (
    Row(None, (), 0, "", 400, Paper("Table 1", 12.91, 33.79, 36.62, 37.43)),
    Row("forward", ALL_BLOCKS, 2, "dinov2-b", 400, Paper("Table 1", 12.25, 37.97, 40.85, 46.97)),
    Row("detach", ALL_BLOCKS, 2, "dinov2-b", 400, Paper("Tables 1 and 7", 12.19, 34.31, 41.98, 49.06)),
    Row("reverse", ALL_BLOCKS, 2, "dinov2-b", 400, Paper("Table 1", 12.21, 33.80, 42.08, 49.91)),
    Row("forward", FIRST, 2, "dinov2-b", 400, Paper("Table 1", 12.67, 39.99, 41.11, 61.16)),
    Row("detach", FIRST, 2, "dinov2-b", 400, Paper("Table 1", 12.73, 33.84, 37.81, 61.63)),
    Row("detach", LAST, 2, "dinov2-b", 400, Paper("Table 1", 12.12, 34.00, 41.18, 55.14)),
    Row("reverse", LAST, 2, "dinov2-b", 400, Paper("Table 1", 11.93, 33.78, 40.90, 55.21)),
    Row("reverse", LAST, 4, "dinov2-b", 400, Paper("Table 1", 11.84, 33.61, 46.06, 58.91)),
    Row("reverse", LAST, 6, "dinov2-b", 400, Paper("Table 1", 11.71, 33.68, 44.31, 57.35)),
    Row("detach", ALL_BLOCKS, 4, "dinov2-b", 400, Paper("Table 7", 12.14, 33.97, None, 54.14)),
    Row("detach", ALL_BLOCKS, 6, "dinov2-b", 400, Paper("Table 7", 12.37, 34.32, None, 54.98)),
    Row("reverse", LAST, 6, "clip-b", 400, Paper("Table 8", 12.41, 33.99, 41.99, 38.99)),
    Row("reverse", LAST, 6, "mae-b", 400, Paper("Table 8", 12.32, 34.00, 39.69, 37.57)),
    Row("reverse", LAST, 6, "dinov2-l", 400, Paper("Table 8", 11.74, 33.87, 45.00, 58.80)),
    Row(None, (), 0, "", 1000, Paper("Table 2", 11.76, None, None, 39.97)),
    Row("reverse", LAST, 6, "dinov2-b", 1000, Paper("Table 2", 11.25, None, None, 57.02)),
)
"""The 64-pixel rows of Tables 1, 7 and 8, and both runs of a million steps of Table 2."""

MEASURED = {
    "fashion-16": (
        "3 minutes on one processor core",
        "training-free accuracy 0.63, in papermill_runs/results/01_alignment_strategies",
    )
}
"""Cost and numbers of small presets that have been run as they are."""
COSTS = {400: "2.5 days on 8 GPUs (the paper's)", 1000: "6 to 7 days on 8 GPUs (the paper's)"}


def sections(row: Row) -> dict[str, dict[str, Any]]:
    """The configuration of a row: TARFlow 4-1024-8-8 on ImageNet 64x64, a folder that `--data` names."""
    steps = 1000 * row.thousands
    found: dict[str, dict[str, Any]] = {
        "model": dict(
            image_size=64,
            channels=3,
            patch_size=4,
            width=1024,
            num_blocks=8,
            layers_per_block=8,
            num_classes=1000,
            noise_std=0.05,
        ),
        "data": dict(name="folder", image_size=64, channels=3, flip=True),
        # an epoch of warm-up, as ml-tarflow has: our choice
        "train": dict(
            steps=steps, batch_size=256, warmup_steps=5000, clip_norm=None, save_every=5000, eval_every=10_000
        ),
    }
    if row.direction is not None:
        sites = tuple((block, row.layer) for block in row.blocks)
        found["align"] = dict(direction=row.direction, sites=sites, encoder=row.encoder)
    return found


PRESETS: dict[str, dict[str, dict[str, Any]]] = {**SMALL, **{row.name: sections(row) for row in ROWS}}
PAPER: dict[str, Row] = {row.name: row for row in ROWS}


def about(name: str) -> tuple[str, str, str]:
    """Command, cost, and expected numbers of a preset, "unknown" where nobody has measured them."""
    data = " --data IMAGENET_FOLDER" if name in PAPER else ""
    command = f"lab train --preset {name}{data} --out runs/{name}"
    if (row := PAPER.get(name)) is None:
        return command, *MEASURED.get(name, ("unknown", "unknown"))
    return command, COSTS[row.thousands], str(row.paper)


def smoke(config: RunConfig) -> RunConfig:
    """A run's smoke size: two steps of four 16x16 pictures of the embedded set, a width of 32, the embedded encoder.

    Blocks, layers, sites, directions and losses stay, so the code of the full run is what runs.
    """
    model = config.model.replace(image_size=16, width=32, head_dim=16, num_classes=10)
    data = dict(name="fashion-mnist-12k", image_size=16, channels=model.channels, flip=config.data.flip)
    few = dict(steps=2, batch_size=4, warmup_steps=1, log_every=1, eval_every=2, save_every=2, precision="fp32")
    align = None
    if config.align:
        align = config.align.replace(encoder="efficientnet-lite0", targets="computed").model_dump()
    return RunConfig(model=model.model_dump(), data=data, train=config.train.replace(**few).model_dump(), align=align)
