"""A preset from training to measures at its smoke size: the code of the full run in a minute, on any machine.

Pictures are small ones of the embedded set, the autoencoder and the widths are tiny, the encoder is the embedded one; blocks,
layers, directions, losses and stores are those of the full run. What comes out says nothing about the run but that it goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labcore.config import InversionRunConfig
from labcore.evaluate.extractors import load_extractor
from labcore.evaluate.generate import Sampling
from labcore.evaluate.statistics import make_reference, save_reference
from labcore.latents import square_pixels
from labcore.runs.configure import as_named
from labcore.runs.evaluation import Data, evaluate_model
from labcore.runs.inversion import run_inversion
from labcore.runs.models import find_sampler
from labcore.runs.presets import INVERSIONS, PRESETS, smoke, smoke_inversion
from labcore.runs.training import run_training, spread

DRAWN, TESTED = 128, 32
"""Images drawn and compared, enough for precision and recall, and test images."""


def run_smoke(preset: str, folder: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train, draw, decode and measure `preset` in `folder`, which is new; a learned inverse after the flow that it inverts.

    Returns the record of `evaluate_model`. Raises ValueError for an unknown preset, and for a folder that is there.
    """
    config, _ = as_named(preset)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is a file, or not empty; give a new folder")
    began = time.perf_counter()
    done = lambda what: say(f"{time.perf_counter() - began:5.1f} s  {what}")  # noqa: E731
    if isinstance(config, InversionRunConfig):
        flow = Path(INVERSIONS[preset]["flow"]).parts[1]
        run_training(smoke(as_named(flow)[0]), folder / "flow")
        done(f"a flow of {flow} trained for two steps and saved")
        small = smoke_inversion(config, str(folder / "flow"))
        run_inversion(small, folder / "run")
    else:
        small = smoke(config)
        run_training(small, folder / "run")
    done(f"{preset} trained for two steps, saved, and drawn from")
    model = find_sampler(folder / "run")
    data = Data(small.data.name, channels=small.data.channels, image_size=square_pixels(model.config)["image_size"])
    metrics = ["precision_efflite0"]
    if preset in PRESETS:
        metrics = ["likelihood", *(["classify"] if model.config.num_classes else []), *metrics]
    extractor = load_extractor("efflite0").to(model.device)
    save_reference(
        make_reference(spread(data.split("test"), DRAWN), extractor), reference := folder / "reference.safetensors"
    )
    sampling = Sampling(num=DRAWN, guidance=_guidance(model), chunk=DRAWN)
    record = evaluate_model(model, data, metrics, sampling, reference, limit=TESTED, out=folder / "record.json")
    done(f"{', '.join(metrics)} measured of {DRAWN} images and {TESTED} test images")
    return record


def _guidance(model: Any) -> float:
    """A scale that the model can have: none without classes, and no more than a learned inverse was taught."""
    if not model.config.num_classes:
        return 0.0
    return min(0.5, getattr(model.config, "max_guidance", 0.5))
