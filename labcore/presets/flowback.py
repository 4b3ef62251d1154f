"""FlowBack's own rows in its tables (arXiv 2511.22345): at 64 pixels, and on latents of 256 pixels.

The paper leaves these open:

- the warm-up: here one epoch, as in ml-tarflow;
- the noise at 64 pixels: here 0.05, as in all public TARFlow configurations for 64 pixels;
- the encoder's input at 64 pixels: here the original picture at 256 pixels, which later code of the first author stores next to
  the small one. The alternative, the enlarged 64 pixels, is `align.image_size=null`;
- the match of the 1,024 tokens of patch 1 with the encoder's: here the encoder's input is so large that it has 1,024 tokens.

Clipping is off, as in ml-tarflow. At 256 pixels the crop is ADM's, because numbers are compared with ADM's reference batches.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from labcore.presets.paper import Paper

ALL_BLOCKS = tuple(range(1, 9))
ORIGINAL = 256
"""Size of the encoder's pictures, in pixels, for flows of 64 pixels."""


class Row(NamedTuple):
    """A row of FlowBack's tables: direction (None: no alignment), aligned blocks, layer, encoder, thousands of steps.

    paper: the paper's numbers for 4,096 images. final: those for 50,000 images, if the paper has them.
    """

    direction: str | None
    blocks: tuple[int, ...]
    layer: int
    encoder: str
    thousands: int
    paper: Paper
    final: Paper | None = None

    @property
    def name(self) -> str:
        """Name of the preset, such as flowback-64-reverse-7-8-l6."""
        longer = "" if self.thousands == 400 else f"-{self.thousands}k"
        if self.direction is None:
            return f"flowback-64-baseline{longer}"
        where = "all" if self.blocks == ALL_BLOCKS else "-".join(map(str, self.blocks))
        encoder = "" if self.encoder == "dinov2-b" else f"-{self.encoder}"
        return f"flowback-64-{self.direction}-{where}-l{self.layer}{encoder}{longer}"


FIRST, LAST = (1, 2), (7, 8)
_ablation = partial(Paper, samples=4096, guidance="chosen")
_final = partial(Paper, samples=50_000, guidance="chosen")
ROWS = (
    Row(None, (), 0, "", 400, _ablation("Table 1", 12.91, 33.79, 36.62, 37.43)),
    Row("forward", ALL_BLOCKS, 2, "dinov2-b", 400, _ablation("Table 1", 12.25, 37.97, 40.85, 46.97)),
    Row("detach", ALL_BLOCKS, 2, "dinov2-b", 400, _ablation("Tables 1 and 7", 12.19, 34.31, 41.98, 49.06)),
    Row("reverse", ALL_BLOCKS, 2, "dinov2-b", 400, _ablation("Table 1", 12.21, 33.80, 42.08, 49.91)),
    Row("forward", FIRST, 2, "dinov2-b", 400, _ablation("Table 1", 12.67, 39.99, 41.11, 61.16)),
    Row("detach", FIRST, 2, "dinov2-b", 400, _ablation("Table 1", 12.73, 33.84, 37.81, 61.63)),
    Row("detach", LAST, 2, "dinov2-b", 400, _ablation("Table 1", 12.12, 34.00, 41.18, 55.14)),
    Row("reverse", LAST, 2, "dinov2-b", 400, _ablation("Table 1", 11.93, 33.78, 40.90, 55.21)),
    Row("reverse", LAST, 4, "dinov2-b", 400, _ablation("Table 1", 11.84, 33.61, 46.06, 58.91)),
    Row(
        "reverse",
        LAST,
        6,
        "dinov2-b",
        400,
        _ablation("Tables 1, 2 and 8", 11.71, 33.68, 44.31, 57.35, note="Table 2: 57.76%"),
    ),
    Row("detach", ALL_BLOCKS, 4, "dinov2-b", 400, _ablation("Table 7", 12.14, 33.97, None, 54.14)),
    Row("detach", ALL_BLOCKS, 6, "dinov2-b", 400, _ablation("Table 7", 12.37, 34.32, None, 54.98)),
    Row("reverse", LAST, 6, "clip-b", 400, _ablation("Table 8", 12.41, 33.99, 41.99, 38.99)),
    Row("reverse", LAST, 6, "mae-b", 400, _ablation("Table 8", 12.32, 34.00, 39.69, 37.57)),
    Row("reverse", LAST, 6, "dinov2-l", 400, _ablation("Table 8", 11.74, 33.87, 45.00, 58.80)),
    Row("reverse", LAST, 6, "dinov2-b", 600, _ablation("Table 2", 11.53, None, None, 57.75)),
    Row("reverse", LAST, 6, "dinov2-b", 800, _ablation("Table 2", 11.48, None, None, 57.65)),
    Row(None, (), 0, "", 1000, _ablation("Table 2", 11.76, None, None, 39.97), _final("Table 3", 4.21, 5.34)),
    Row(
        "reverse",
        LAST,
        6,
        "dinov2-b",
        1000,
        _ablation("Table 2", 11.25, None, None, 57.02),
        _final("Table 3", 3.69, 4.34),
    ),
)
"""The 64-pixel rows of Tables 1, 2, 3, 7 and 8. The paper does not say whether 600K and 800K are separate runs, or checkpoints
of the run of a million steps; here they are separate runs, each with a complete learning-rate schedule."""

COSTS = {
    400: "2.5 days on 8 GPUs (the paper's)",
    600: "3.8 days on 8 GPUs, in proportion to the paper's 400,000 steps",
    800: "5 days on 8 GPUs, in proportion to the paper's 400,000 steps",
    1000: "6 to 7 days on 8 GPUs (the paper's)",
}


class LatentRow(NamedTuple):
    """A run on latents of 256 pixels: name, lambda (None: no alignment), patch, thousands of steps, the paper's numbers.

    paper: the paper's numbers for 4,096 images; with patch 1 for 50,000, since there are no other ones. final: for 50,000.
    """

    name: str
    weight: float | None
    patch: int
    thousands: int
    paper: Paper
    final: Paper | None = None

    @property
    def cost(self) -> str:
        known = {400: "3.5 days", 1000: "8 to 9 days"}[self.thousands]
        return f"{known} on 8 GPUs (the paper's{', with patch 2' if self.patch == 1 else ''})"


LATENT_ROWS = (
    LatentRow("flowback-256-baseline", None, 2, 400, _ablation("Tables 2 and 9", 13.82, None, None, 45.97)),
    LatentRow("flowback-256-reverse", 0.1, 2, 400, _ablation("Tables 2 and 9", 13.26, None, None, 57.85)),
    LatentRow("flowback-256-reverse-0.5", 0.5, 2, 400, _ablation("Table 9", 13.74, None, None, None)),
    LatentRow(
        "flowback-256-baseline-1000k",
        None,
        2,
        1000,
        _ablation("Table 2", 13.05, None, None, 40.22),
        _final("Table 4", 5.15, 6.78, 243.49),
    ),
    LatentRow(
        "flowback-256-reverse-1000k",
        0.1,
        2,
        1000,
        _ablation("Table 2", 12.79, None, None, 56.24),
        _final("Table 4", 4.95, 6.89, 234.99),
    ),
    LatentRow(
        "flowback-256-reverse-p1-1000k",
        0.1,
        1,
        1000,
        _final("Table 4", 4.18, 4.96, 240.8, note="815.6M parameters here; MIMFlow (arXiv 2606.26016) says 831M of it"),
    ),
)
"""The latent rows of Tables 2, 4 and 9."""


def papers(row: Row | LatentRow) -> tuple[Paper, ...]:
    """Return all numbers that the paper reports for a row."""
    return (row.paper,) if row.final is None else (row.paper, row.final)


def latent_sections(row: LatentRow) -> dict[str, dict[str, Any]]:
    """Return the configuration of a latent row: the same TARFlow with RoPE and SwiGLU, on latents of sd-vae-ft-ema."""
    found = _sections(row.thousands)
    found["model"] |= dict(image_size=32, channels=4, patch_size=row.patch, codec="sd-vae-ft-ema")
    found["model"] |= dict(noise_std=0.2, positions="rope", mlp="swiglu")
    found["data"] |= dict(image_size=256, crop="adm")
    if row.weight is not None:
        sites = tuple((block, 6) for block in LAST)
        found["align"] = dict(direction="reverse", sites=sites, encoder="dinov2-b", weight=row.weight)
    return found


def sections(row: Row) -> dict[str, dict[str, Any]]:
    """Return the configuration of a row: TARFlow 4-1024-8-8 on ImageNet 64x64, a folder that `--data` names."""
    found = _sections(row.thousands)
    if row.direction is not None:
        sites = tuple((block, row.layer) for block in row.blocks)
        found["align"] = dict(direction=row.direction, sites=sites, encoder=row.encoder, image_size=ORIGINAL)
    return found


def _sections(thousands: int) -> dict[str, dict[str, Any]]:
    """Return model, data and training that all rows have in common, at 64 pixels."""
    return {
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
        # one epoch of warm-up, as in ml-tarflow; our choice
        "train": dict(
            steps=1000 * thousands,
            batch_size=256,
            warmup_steps=5000,
            clip_norm=None,
            save_every=5000,
            eval_every=10_000,
            num_workers=8,  # processes that read pictures during training; our choice
        ),
    }
