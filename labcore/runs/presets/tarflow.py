"""TARFlow's own runs (arXiv 2412.06329), with the settings of its public code, in epochs of ImageNet's 1,281,167 images.

Each warms up for an epoch and decays to 1e-6, without clipping and without averaged weights: the average that is kept here
besides is our choice, and `model/` holds it.
"""

from __future__ import annotations

from typing import Any

from labcore.runs.presets.paper import Paper

IMAGENET, AFHQ = 1_281_167, 14_630
"""Training images; those of AFHQ's first version, 3 classes."""


def _run(
    images: int, epochs: int, batch: int, pixels: int, patch: int, width: int, classes: int, **noise: Any
) -> dict[str, dict[str, Any]]:
    """The sections of a run: TARFlow patch-width-8-8 on a folder that `--data` names."""
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
            num_workers=8,  # pictures are read beside the training; our choice
            precision="fp32" if noise.get("noise") == "uniform" else "auto",
        ),
    }


PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "tarflow-imagenet-64": _run(IMAGENET, 200, 256, 64, 2, 768, 1000, noise_std=0.05),
    "tarflow-imagenet-64-uncond": _run(IMAGENET, 200, 256, 64, 2, 768, 0, noise_std=0.05),
    "tarflow-imagenet-64-bits": _run(IMAGENET, 100, 256, 64, 2, 768, 0, noise="uniform"),
    "tarflow-imagenet-128": _run(IMAGENET, 320, 768, 128, 4, 1024, 1000, noise_std=0.15),
    "tarflow-afhq-256": _run(AFHQ, 4000, 256, 256, 8, 768, 3, noise_std=0.07),
}
"""Name -> sections, as `labcore.runs.presets` has them."""

COSTS = {
    "tarflow-imagenet-64": "8 GPUs (the paper's), at most 14 days of an A100 each",
    "tarflow-imagenet-64-uncond": "8 GPUs (the paper's)",
    "tarflow-imagenet-64-bits": "16 GPUs in fp32 (the paper's)",
    "tarflow-imagenet-128": "32 GPUs (the paper's)",
    "tarflow-afhq-256": "8 GPUs (the paper's)",
}
PAPERS = {
    "tarflow-imagenet-64": Paper(fid=5.7, note="at guidance 2; ml-tarflow's own script takes 2.3"),
    "tarflow-imagenet-64-uncond": Paper(fid=18.42),
    "tarflow-imagenet-64-bits": Paper(bits=2.99),
    "tarflow-imagenet-128": Paper(fid=5.03, note="guidance 1.5"),
    "tarflow-afhq-256": Paper(fid=13.60, note="of its checkpoint, guidance 3.4"),
}
