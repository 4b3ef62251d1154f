"""Flows of colour pictures: of one's own pictures at 32 and 64 pixels, and of the emoji that ship.

All settings are our choice, after TARFlow's for ImageNet at 64 pixels (arXiv 2412.06329): blocks, mirroring, and a noise of
0.05 at 64 pixels. Patches of 4 pixels keep a quarter of its tokens. Pictures of text and flags are not mirrored. Of these
presets only `emoji-32` has been run, for the model that ships; `lab plan` estimates the time of the others.
"""

from __future__ import annotations

from typing import Any

TRAIN: dict[str, Any] = dict(batch_size=128, warmup_steps=500, weight_decay=1e-2, ema_decay=0.999)
MINE: dict[str, Any] = dict(name="folder", channels=3, flip=True)
READ: dict[str, Any] = dict(num_workers=4)
"""Other processes read the pictures of a folder during training."""
HOURS: dict[str, Any] = dict(steps=12_000, lr=1e-3, batch_size=64, eval_every=2000, save_every=1000)
"""A training of some hours on one processor core."""


def _model(pixels: int, width: int, layers: int, **others: Any) -> dict[str, Any]:
    """Return a flow of 8 blocks on patches of 4 pixels. The number of classes, here that of the emoji, follows the data."""
    size = dict(image_size=pixels, channels=3, patch_size=4, width=width, num_blocks=8, layers_per_block=layers)
    return {**size, "num_classes": 9, **others}


SMALL_FLOW = _model(32, 64, 2, head_dim=32)
COLOUR: dict[str, dict[str, Any]] = {
    "emoji-32": {
        "model": SMALL_FLOW,
        "data": dict(name="emoji-32"),
        "train": {**TRAIN, **HOURS, "sampling": "balanced"},
    },
    "pictures-32-small": {
        "model": SMALL_FLOW,
        "data": {**MINE, "image_size": 32},
        "train": {**TRAIN, **HOURS},
    },
    "pictures-32": {
        "model": _model(32, 256, 4),
        "data": {**MINE, "image_size": 32},
        "train": {**TRAIN, **READ, "steps": 20_000, "lr": 5e-4},
    },
    "pictures-64": {
        "model": _model(64, 384, 4, noise_std=0.05),
        "data": {**MINE, "image_size": 64},
        "train": {**TRAIN, **READ, "steps": 40_000, "lr": 3e-4, "warmup_steps": 1000, "save_every": 2000},
    },
}
"""Name -> sections, as `labcore.presets` has them."""
MEASURED = {
    "emoji-32": (
        "1.6 hours on one processor core, beside other work",
        "-0.583 nats/dim, 70.8% training-free accuracy (66.4% by guessing), in labcore/zoo/emoji-tarflow",
    ),
}
"""Cost and numbers of presets that have been run unchanged."""
