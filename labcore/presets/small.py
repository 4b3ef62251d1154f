"""Small flows of our own, on the embedded data, and ml-tarflow's MNIST notebook."""

from __future__ import annotations

from typing import Any

DEFAULT = "fashion-small"
"""Default preset of a flow's run."""
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
    # our choice: FlowBack's 8 blocks, so that its block positions apply, at a size for minutes: 16 tokens
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
            precision="fp32",  # runs of it are compared, and "auto" may choose another for each
        ),
    },
    # our choice: FlowBack's latent flow at a size for minutes: 49 tokens of the shipped autoencoder
    "latent-small": {
        "model": dict(
            image_size=7,
            channels=4,
            patch_size=1,
            width=64,
            num_blocks=4,
            layers_per_block=3,
            head_dim=32,
            num_classes=10,
            positions="rope",
            mlp="swiglu",
            noise_std=0.2,
            codec="fashion-vae",
        ),
        "data": dict(name="fashion-mnist-12k", flip=True),
        "train": dict(
            steps=800,
            batch_size=128,
            lr=2e-3,
            warmup_steps=60,
            weight_decay=1e-2,
            ema_decay=0.99,
            eval_every=800,
            save_every=200,
            precision="fp32",  # runs of it are compared, and "auto" may choose another for each
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

MEASURED = {
    "latent-small": (
        "10 to 17 minutes on one processor core, measures too",
        "FID 116.1 (efflite0), 41% recognised, in papermill_runs/results/07_latent_256",
    ),
    "fashion-16": (
        "3 minutes on one processor core",
        "training-free accuracy 0.57, in papermill_runs/results/01_alignment_strategies",
    ),
}
"""Cost and numbers of small presets that have been run unchanged."""
