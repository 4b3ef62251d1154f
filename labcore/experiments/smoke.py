"""A preset from training to measures at its smoke size: the code of the full run in a minute, on any machine.

The pictures are small ones of the embedded set, the autoencoder and the widths are tiny, and the encoder is the embedded one.
Blocks, layers, directions, losses and stores are those of the full run. Results are meaningless; this only checks that every
stage runs.
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
"""Number of drawn images, enough for precision and recall; number of test images; and the extractor."""


def run_smoke(preset: str, folder: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train, draw, decode and measure `preset` in a new `folder`; the flow of a student is trained first.

    Returns the result of `labcore.runs.evaluate.evaluate_run`. Raises ValueError for an unknown preset, and for a folder that
    exists.
    """
    check_new(folder)
    began = time.perf_counter()
    done = lambda what: say(f"{time.perf_counter() - began:5.1f} s  {what}")  # noqa: E731
    config = ready_to_train(preset, folder, small=True)
    done(f"{preset} at its smoke size is ready to be trained")
    train_streamed(config, folder / "run")
    done("trained for two steps, saved, and drawn from")
    found = evaluate_run(config, folder / "run", folder / "measures", small_evaluation(config, folder))
    done(f"measured on {DRAWN} drawn images and {TESTED} test images")
    return found


def small_evaluation(config: BaseRunConfig, folder: Path, denoising: Denoising | None = None) -> RunEvaluation:
    """Return the measures of the smoke size.

    The reference statistics, written to `folder`, are of as many test images as are drawn, because statistics of all training
    images take minutes. The guidance is one that the model has; a student's is at most the largest that it was trained with.
    """
    images, path = Data.of(config.data).split("test"), folder / "reference.safetensors"
    save_reference(make_reference(spread(images, DRAWN), load_extractor(EXTRACTOR).to(process_device())), path)
    guidance = min(0.5, getattr(config.model, "max_guidance", 0.5)) if config.model.num_classes else 0.0
    return RunEvaluation(DRAWN, (guidance,), EXTRACTOR, path, limit=TESTED, denoising=denoising)
