"""A preset from training to measures at its smoke size: the code of the full run in a minute, on any machine.

Pictures are small ones of the embedded set, the autoencoder and the widths are tiny, the encoder is the embedded one; blocks,
layers, directions, losses and stores are those of the full run. What comes out says nothing about the run but that it goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labcore.config import BaseRunConfig
from labcore.data.datasets import Data
from labcore.evaluate.extractors import load_extractor
from labcore.evaluate.statistics import make_reference, save_reference
from labcore.experiments.recipe import ready_to_train
from labcore.processes import process_device
from labcore.runs.background import train_streamed
from labcore.runs.denoising import Denoising
from labcore.runs.evaluate import RunEvaluation, evaluate_run
from labcore.runs.folder import check_new
from labcore.spread import spread

DRAWN, TESTED, EXTRACTOR = 128, 32, "efflite0"
"""Images drawn and compared, enough for precision and recall; test images; and what looks at them."""


def run_smoke(preset: str, folder: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train, draw, decode and measure `preset` in `folder`, which is new; a learned inverse after the flow that it inverts.

    Returns what `labcore.runs.evaluate.evaluate_run` does. Raises ValueError for an unknown preset, and for a folder that is
    there.
    """
    check_new(folder)
    began = time.perf_counter()
    done = lambda what: say(f"{time.perf_counter() - began:5.1f} s  {what}")  # noqa: E731
    config = ready_to_train(preset, folder, small=True)
    done(f"{preset} at its smoke size is ready to be trained")
    train_streamed(config, folder / "run")
    done("trained for two steps, saved, and drawn from")
    found = evaluate_run(config, folder / "run", folder / "measures", small_evaluation(config, folder))
    done(f"measured of {DRAWN} images and {TESTED} test images")
    return found


def small_evaluation(config: BaseRunConfig, folder: Path, denoising: Denoising | None = None) -> RunEvaluation:
    """What is measured at the smoke size. Statistics of as many test images as are drawn are written to `folder`: those of all
    training images take minutes. Guidance is one that the model can have, and no more than a learned inverse was taught.
    """
    images, path = Data.of(config.data).split("test"), folder / "reference.safetensors"
    save_reference(make_reference(spread(images, DRAWN), load_extractor(EXTRACTOR).to(process_device())), path)
    guidance = min(0.5, getattr(config.model, "max_guidance", 0.5)) if config.model.num_classes else 0.0
    return RunEvaluation(DRAWN, (guidance,), EXTRACTOR, path, limit=TESTED, denoising=denoising)
