"""BiFlow's rows (arXiv 2512.10953): the flows that are inverted, and their students, at the paper's size and at ours.

The paper gives no table of architectures, no optimizer and no schedule. B is 8 blocks of 2 layers of width 768 and XL 8 of
3 of 1536, which meet its parameter counts (120M and 690M); L, 8 of 3 of 1024, is our choice. 160 epochs of ImageNet in batches
of 256 are the paper's for its ablations. Everything else is our choice: AdamW with a rate of 1e-4 after 10 epochs of
warm-up, as later code of its group; affine parameters held in [-3, 3]; noise of 0.2 in latents; guidance of 0 to 0.5.

Rows of the paper's size are for latents of Stable Diffusion's autoencoder, 4 x 32 x 32 for 256 pixels, which the first run
computes and keeps; these rows have not been run here. The small rows are the same on 16x16 pictures of the embedded set, with
16 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from labcore.presets.paper import Paper, expected

CLAMP = 3.0
SIZES: dict[str, dict[str, int]] = {
    "b": dict(width=768, layers_per_block=2),
    "l": dict(width=1024, layers_per_block=3),
    "xl": dict(width=1536, layers_per_block=3),
}
LATENTS: dict[str, Any] = dict(
    image_size=32, channels=4, patch_size=2, num_blocks=8, num_classes=1000, codec="sd-vae-ft-ema"
)
IMAGENET: dict[str, Any] = dict(name="folder", image_size=256, channels=3, flip=True, crop="adm")
"""Pictures of those latents; mirroring, and cropping as ADM does, are our choice."""
PICTURES: dict[str, Any] = dict(
    image_size=16, channels=1, patch_size=4, num_blocks=8, layers_per_block=2, head_dim=32, num_classes=10
)
MODERN: dict[str, Any] = dict(positions="rope", mlp="swiglu", norm="rmsnorm")
"""Settings of the "improved" TARFlow; the paper does not name its changes, so these are our choice."""

EPOCHS_160: dict[str, Any] = dict(
    steps=800_640,
    batch_size=256,
    lr=1e-4,
    warmup_steps=50_040,
    weight_decay=0.0,
    clip_norm=None,
    ema_decay=0.9999,
    save_every=5000,
    eval_every=10_000,
)
MINUTES: dict[str, Any] = dict(
    steps=600,
    batch_size=128,
    warmup_steps=30,
    eval_every=600,
    save_every=150,
    keep=20,
    ema_decay=0.99,
    precision="fp32",  # runs are compared, and "auto" may choose a different one for each
)
LONGER: dict[str, Any] = {**MINUTES, "steps": 2400, "batch_size": 32, "warmup_steps": 160, "ema_decay": 0.995}
"""More and smaller steps, in the time of `MINUTES` on one processor core; flows learned more this way in a pilot."""
SMALL_FLOW, SMALL_STUDENT = dict(lr=2e-3, weight_decay=1e-2), dict(lr=2e-3, weight_decay=0.0)


def _flow(
    size: dict[str, Any], clamp: float | None, noise_std: float, train: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    model = {**size, **MODERN, "affine_clamp": clamp, "noise_std": noise_std}
    embedded = {16: dict(name="fashion-mnist-12k", image_size=16), 28: dict(name="fashion-mnist-12k")}
    data = embedded.get(size["image_size"], IMAGENET)
    return {"model": model, "data": data, "train": train}


FLOWS: dict[str, dict[str, dict[str, Any]]] = {
    "itarflow-16": _flow({**PICTURES, "width": 64}, CLAMP, 0.1, {**MINUTES, **SMALL_FLOW}),
    "itarflow-16-unclamped": _flow({**PICTURES, "width": 64}, None, 0.1, {**MINUTES, **SMALL_FLOW}),
    "itarflow-16-longer": _flow({**PICTURES, "width": 64}, CLAMP, 0.1, {**LONGER, **SMALL_FLOW}),
    "itarflow-16-longer-unclamped": _flow({**PICTURES, "width": 64}, None, 0.1, {**LONGER, **SMALL_FLOW}),
    "itarflow-28": _flow({**PICTURES, "image_size": 28, "width": 64}, CLAMP, 0.1, {**LONGER, **SMALL_FLOW}),
    **{f"itarflow-256-{size}": _flow({**LATENTS, **s}, CLAMP, 0.2, EPOCHS_160) for size, s in SIZES.items()},
    "itarflow-256-b-unclamped": _flow({**LATENTS, **SIZES["b"]}, None, 0.2, EPOCHS_160),
}
"""The flows, each trained by likelihood on noisy images."""

UNKNOWN = "unknown: neither the paper nor we have timed it"
PILOT = "training-free accuracy 0.76 and Bayes accuracy 0.82 in a pilot of one seed"
NORMS = "-0.483 nats/dim, in papermill_runs/results/03_trajectory_norms"
ABOUT: dict[str, tuple[str, str]] = {
    "itarflow-16": ("5 minutes on one processor core", NORMS),
    "itarflow-16-unclamped": ("5 minutes on one processor core", NORMS),
    "itarflow-16-longer": ("4 minutes on one processor core", PILOT),
}
"""Cost and expected numbers of the small flows."""
FLOW_PAPERS: dict[str, tuple[Paper, ...]] = {
    "itarflow-256-b": (Paper(fid=6.83, guidance="chosen"), Paper(fid=44.46, guidance=0, note="the exact inverse")),
    "itarflow-256-l": (),  # the paper has no such size
    "itarflow-256-xl": (Paper(fid=4.54, guidance="chosen"),),
    "itarflow-256-b-unclamped": (),
}
"""Numbers that BiFlow reports for the flows that it inverts."""


@dataclass(frozen=True)
class Arm:
    """One way to teach: its differences from hidden alignment with mean squared errors, and the paper's numbers for it."""

    name: str
    papers: tuple[Paper, ...] = ()
    ours: str | None = None  # at width 64: of five seeds in papermill_runs/results/04_learned_vs_analytic_inverse
    unclamped: bool = False  # taught by a flow without clamp
    model: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] = field(default_factory=dict)


PLAIN = dict(adaptive_power=0.0)  # p = 1 hides what norm control does
BOTH = {"lpips": 0.4, "convnextv2": 0.1}  # the weights of later code of the group
UNGUIDED = partial(Paper, guidance=0)
GUIDED = partial(Paper, guidance="chosen")
ARMS = (
    Arm(
        "naive",
        (UNGUIDED("strategies", 43.41),),
        "FID 94.7 (efflite0), 60% recognised",
        student=dict(strategy="naive"),
    ),
    Arm(
        "hidden-distillation",
        (UNGUIDED("strategies", 55.00),),
        "FID 75.2 (efflite0), 65% recognised",
        model=dict(handover="state"),
        student=dict(strategy="hidden-distillation"),
    ),
    Arm(
        "hidden-alignment",
        (UNGUIDED("strategies", 36.93), GUIDED("guidance", 6.90, note="NFE 2")),
        "FID 91.4 (efflite0), 60% recognised",
    ),
    Arm("sum", student=dict(align_weight=8.0)),
    Arm(
        "no-denoiser",
        (
            UNGUIDED("denoising", 100.51, denoising="none"),
            UNGUIDED("denoising", 42.62, denoising="score"),
        ),
        "FID 100.3 (efflite0), 60% recognised",
        model=dict(denoiser=False),
    ),
    Arm("norm-both", ours="FID 98.9 (efflite0), 54% recognised", student=PLAIN),
    Arm(
        "norm-clamp",
        (
            UNGUIDED(
                "norm control", 31.88, note="the same number as learned denoising and as squared errors; p unknown"
            ),
        ),
        student={**PLAIN, "normalise": "none"},
    ),
    Arm("norm-normalise", unclamped=True, student=PLAIN),
    Arm(
        "norm-none",
        (UNGUIDED("norm control", 45.54),),
        "FID 99.1 (efflite0), 54% recognised",
        unclamped=True,
        student={**PLAIN, "normalise": "none"},
    ),
    Arm(
        "guided",
        (GUIDED("guidance", 6.79, note="NFE 1"),),
        "FID 91.7 (efflite0), 64% recognised",
        model=dict(max_guidance=0.5),
    ),
    Arm("lpips", (UNGUIDED("distances", 14.15),), student=dict(perceptual={"lpips": 0.4})),
    Arm("lpips-convnext", student=dict(perceptual=BOTH)),
    Arm(
        "guided-lpips-convnext",
        (GUIDED("scaling", 2.46, note="or without guidance: its table of distances may be read so"),),
        model=dict(max_guidance=0.5),
        student=dict(perceptual=BOTH),
    ),
)
"""The rows of the paper's ablations. "sum" weights the image and each state equally, as equation 2 is printed; the other rows
use the mean over states, since the paper gives no weights."""

FINAL = Arm(
    "final",
    (GUIDED(fid=2.39, inception=303.0, note="NFE 1, trained for longer than 160 epochs"),),
    model=dict(max_guidance=0.5),
    student=dict(perceptual=BOTH),
)
"""The final model. The paper does not say how long it is trained; twice the ablations' 160 epochs is our choice."""

SCALING: dict[tuple[str, str], tuple[Paper, ...]] = {
    ("l", "guided"): (),
    ("l", "guided-lpips-convnext"): (),
    ("xl", "guided"): (GUIDED("scaling", 4.61),),
    ("xl", "guided-lpips-convnext"): (GUIDED("scaling", 2.57),),
}
"""Scaling, without perceptual distances and with both; size B is among the arms."""

FEATURES = Arm("features", ours="FID 66.4 (efflite0), 63% recognised", student=dict(perceptual={"efflite0": 1.0}))
SMALL_ARMS = (*(arm for arm in ARMS if not {*BOTH} & {*arm.student.get("perceptual", ())}), FEATURES)
"""The rows for the embedded set: "features" replaces LPIPS and ConvNeXt V2, whose weights are in no package."""

WIDTHS = (64, 96)
COST = "5 minutes on one processor core, after as long for its flow"
STOPPED = (25, 50)
"""Percentages of a flow's training after which the flow is used as teacher; 100 percent is the row hidden-alignment."""


class Row(NamedTuple):
    """A student: name, the flow it inverts (a run of that preset), size, arm, training, cost, expected numbers.

    papers: the paper's numbers for it.
    """

    name: str
    flow: str
    size: dict[str, Any]
    arm: Arm
    train: dict[str, Any]
    cost: str
    expected: str
    papers: tuple[Paper, ...] = ()


def _paper_row(size: str, arm: Arm, papers: tuple[Paper, ...], train: dict[str, Any] = EPOCHS_160) -> Row:
    flow = f"runs/itarflow-256-{size}" + "-unclamped" * arm.unclamped
    model = {**LATENTS, **SIZES[size]}
    return Row(f"biflow-256-{size}-{arm.name}", flow, model, arm, train, UNKNOWN, expected(papers), papers)


def _small_row(width: int, arm: Arm, stopped: int | None = None) -> Row:
    flow = "runs/itarflow-16" + "-unclamped" * arm.unclamped
    name = f"biflow-16-w{width}-" + (arm.name if stopped is None else f"teacher-{stopped}")
    if stopped is not None:
        flow += f"/checkpoints/step-{MINUTES['steps'] * stopped // 100:08d}"
    ran = arm.ours if (width, stopped) == (WIDTHS[0], None) else None
    cost, numbers = (COST, ran) if ran else ("unknown", "unknown")
    return Row(name, flow, {**PICTURES, "width": width}, arm, {**MINUTES, **SMALL_STUDENT}, cost, numbers)


_BY_NAME = {arm.name: arm for arm in ARMS}
ROWS = (
    *(_small_row(width, arm) for width in WIDTHS for arm in SMALL_ARMS),
    *(_small_row(WIDTHS[0], _BY_NAME["hidden-alignment"], stopped) for stopped in STOPPED),
    *(_paper_row("b", arm, arm.papers) for arm in ARMS),
    _paper_row("b", FINAL, FINAL.papers, {**EPOCHS_160, "steps": 2 * EPOCHS_160["steps"]}),
    *(_paper_row(size, _BY_NAME[arm], papers) for (size, arm), papers in SCALING.items()),
)


def sections(row: Row) -> dict[str, Any]:
    """Return the configuration of a row; its data are those of the flow's run."""
    model = {**row.size, **row.arm.model}
    return {"flow": row.flow, "model": model, "train": row.train, "student": row.arm.student}
