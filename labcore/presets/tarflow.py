"""TARFlow's own runs (arXiv 2412.06329), with the settings of its public code, in epochs of ImageNet's 1,281,167 images.

Each run warms up for an epoch and decays to 1e-6, without clipping. TARFlow does not average weights; the average that is kept
here in addition, in `model/`, is our choice.

The runs without classes use the downsampled ImageNet64 (van den Oord et al., arXiv 1601.06759), whose pictures are small
already; all other runs use ImageNet, which is resized here. For some numbers of the paper neither guidance nor denoising was
found. These numbers are given unchanged, together with numbers of GS-Jacobi (arXiv 2505.12849), whose settings are known.
"""

from __future__ import annotations

from typing import Any

from labcore.presets.paper import Paper

IMAGENET, DOWNSAMPLED, AFHQ = 1_281_167, 1_281_149, 14_630
"""Number of training images of ImageNet, of the downsampled ImageNet64, and of AFHQ's first version with 3 classes."""


def _run(
    images: int, epochs: int, batch: int, pixels: int, patch: int, width: int, classes: int, **noise: Any
) -> dict[str, dict[str, Any]]:
    """Return the sections of a run: TARFlow patch-width-8-8 on a folder that `--data` names."""
    epoch = images // batch
    model = dict(image_size=pixels, channels=3, patch_size=patch, width=width, num_blocks=8, layers_per_block=8)
    return {
        "model": {**model, "num_classes": classes, **noise},
        "data": dict(name="folder", image_size=pixels, channels=3, flip=True),
        "train": dict(
            steps=epochs * epoch,
            batch_size=batch,
            warmup_steps=epoch,
            label_dropout=0.1 if classes else 0.0,
            clip_norm=None,
            seed=100,
            save_every=5000,
            eval_every=10_000,
            num_workers=8,  # processes that read pictures during training; our choice
            precision="fp32" if noise.get("noise") == "uniform" else "auto",
        ),
    }


PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "tarflow-imagenet-64": _run(IMAGENET, 200, 256, 64, 2, 768, 1000, noise_std=0.05),
    "tarflow-imagenet-64-uncond": _run(DOWNSAMPLED, 200, 256, 64, 2, 768, 0, noise_std=0.05),
    "tarflow-imagenet-64-bits": _run(DOWNSAMPLED, 100, 256, 64, 2, 768, 0, noise="uniform"),
    "tarflow-imagenet-128": _run(IMAGENET, 320, 768, 128, 4, 1024, 1000, noise_std=0.15),
    "tarflow-afhq-256": _run(AFHQ, 4000, 256, 256, 8, 768, 3, noise_std=0.07),
}
"""Name -> sections, as `labcore.presets` has them."""

COSTS = {
    "tarflow-imagenet-64": "8 GPUs (the paper's), at most 14 days of an A100 each",
    "tarflow-imagenet-64-uncond": "8 GPUs (the paper's)",
    "tarflow-imagenet-64-bits": "16 GPUs in fp32 (the paper's)",
    "tarflow-imagenet-128": "32 GPUs (the paper's)",
    "tarflow-afhq-256": "8 GPUs (the paper's)",
}
NOT_FOUND = "its guidance and denoising were not found"
GS_JACOBI = "GS-Jacobi's own training"
SMALL_PICTURES = "of the downsampled ImageNet64"


def denoising(noise_std: float, multiplier: float) -> float:
    """Return the noise_std for a step of score denoising `multiplier` times as long as ml-tarflow's, noise_std squared."""
    return round(noise_std * multiplier**0.5, 4)


PAPERS: dict[str, tuple[Paper, ...]] = {
    "tarflow-imagenet-64": (Paper(fid=5.7, guidance=2.0, note="ml-tarflow's own script takes guidance 2.3"),),
    "tarflow-imagenet-64-uncond": (
        Paper(
            GS_JACOBI,
            14.67,
            guidance=0.2,
            attn_temp=0.3,
            noise_std=denoising(0.05, 0.9),
            note=f"multiplier 0.9, {SMALL_PICTURES}",
        ),
        Paper("TARFlow", 18.42, note=f"{SMALL_PICTURES}, {NOT_FOUND}"),
    ),
    "tarflow-imagenet-64-bits": (Paper(bits=2.99, note=SMALL_PICTURES),),
    "tarflow-imagenet-128": (
        Paper(GS_JACOBI, 5.06, guidance=1.5, noise_std=denoising(0.15, 0.97), note="multiplier 0.97"),
        Paper("TARFlow", 5.03, note=NOT_FOUND),
    ),
    "tarflow-afhq-256": (
        Paper(
            "ml-tarflow's checkpoint, by GS-Jacobi's authors",
            13.60,
            guidance=3.4,
            noise_std=denoising(0.07, 1.4),
            note="multiplier 1.4",
        ),
    ),
}
"""Numbers that papers report, with the settings of each."""
