"""The flow of two pixels for the page docs/explore/spiral.md: its training, and the files that the page loads.

`python -m labcore.site.spiral` trains it anew and replaces the committed weights in docs/explore/spiral-flow/.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from labcore.config import TarFlowConfig, TrainConfig
from labcore.data.spiral import LINKS, Spiral
from labcore.files import write_atomic
from labcore.flows.tarflow import TarFlow
from labcore.site.records import CHECKOUT
from labcore.train.loop import train
from labcore.train.objectives import Likelihood

FOLDER = CHECKOUT / "docs" / "explore" / "spiral-flow"
CLASSES = 3
NOISE = 0.1
"""Standard deviation of the noise in training, as in notebook 08."""
CONFIG = TarFlowConfig(
    image_size=(1, 2), channels=1, patch_size=1, width=16, num_blocks=6, layers_per_block=1, head_dim=16,
    num_classes=CLASSES, noise_std=NOISE,
)  # fmt: skip
"""Small, so that a browser computes the density on a mesh of 64 x 64 points while a slider moves; our choice."""
STEPS, DROPOUT, PICTURES = 2500, 0.3, 30_000


def load() -> TarFlow:
    """Return the committed flow, in eval mode on the CPU."""
    return TarFlow.from_pretrained(FOLDER)


def write_models(folder: Path) -> None:
    """Write spiral.onnx, the density of the flow with guidance, and spiral.json, the exact density, into `folder`."""
    from labcore.hub import onnx

    onnx.export_guided_density(load(), folder / "spiral.onnx", "float32")
    spiral = Spiral(CLASSES)
    about = {
        "classes": [f"arm {number}" for number in range(CLASSES)],
        "noise_std": NOISE,
        "links": LINKS,
        "means": spiral.means.tolist(),
        "covariances": spiral.covariances.tolist(),
    }
    write_atomic(folder / "spiral.json", json.dumps(about))


def train_flow(folder: Path, steps: int = STEPS) -> TarFlow:
    """Train the flow of the page on a CPU; return its averaged weights. `folder` is the run's."""
    rates = dict(lr=2e-3, warmup_steps=steps // 15, weight_decay=0.0, ema_decay=0.998, label_dropout=DROPOUT)
    every = dict(log_every=max(steps // 10, 1), eval_every=steps, save_every=steps)
    settings = TrainConfig(steps=steps, batch_size=512, seed=0, precision="fp32", **rates, **every)
    torch.manual_seed(0)
    flow = TarFlow(CONFIG)
    return train(flow, Likelihood(DROPOUT), Spiral(CLASSES).draw(PICTURES, 0), settings, folder).ema.cpu().eval()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        train_flow(Path(place)).save_pretrained(FOLDER)
    print(f"weights in {FOLDER}")
