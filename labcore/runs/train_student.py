"""One training run of a learned inverse, in a folder as `labcore.runs.train_flow` makes them; the flow stays where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labcore import provenance
from labcore.biflow.model import BackwardModel
from labcore.config import StudentRunConfig
from labcore.data.class_names import with_names
from labcore.data.loaders import Numbered
from labcore.data.transforms import floats
from labcore.encoders.perceptual import load_perceptual
from labcore.flows.tarflow import TarFlow
from labcore.latents import codec_of
from labcore.processes import process_device
from labcore.rng import StepNoise
from labcore.runs.config_paths import anchored
from labcore.runs.models import find_model
from labcore.runs.train_flow import carry_out, datasets, initialised, made, preview_in
from labcore.spread import spread_rows
from labcore.train.distillation import Distillation, check_pair, measure_rms
from labcore.train.log import Reporter
from labcore.train.loop import Hooks, TrainResult
from labcore.types import Batch

MEASURED = 512
"""Training images on which the constants of normalise "block" are measured; our choice."""
EVALUATED = 512
"""Test images whose distances are logged while training; our choice."""


def run_student(
    config: StudentRunConfig, folder: str | Path, previews: bool = True, reporter: Reporter | None = None
) -> TrainResult:
    """Train what `config` says in `folder`, or go on with what is there. Raises ValueError for what cannot be trained.

    reporter: as in `labcore.train.loop.Hooks`.
    """
    folder, config = Path(folder), anchored(config)
    flow = find_flow(config)
    training, test = datasets(config)
    config = with_names(config, training.classes)
    with made(folder):
        objective = distillation_of(config, flow, training)
        hooks = Hooks(
            evaluate=lambda ema: evaluation(ema, objective, test),
            preview=preview_in(folder) if previews else None,
            reporter=reporter,
        )
        student = initialised(BackwardModel, config)
        return carry_out(config, folder, student, objective, training, hooks, identity(flow))


def find_flow(config: StudentRunConfig) -> TarFlow:
    """The flow that is inverted. Raises as `find_model`, and ValueError where the model cannot learn to invert it."""
    flow = find_model(config.flow)
    check_pair(flow, config.model)
    return flow


def identity(flow: TarFlow) -> dict[str, str]:
    """What beside its configuration makes it another run: the flow's weights, under whatever name."""
    return {"flow": provenance.weights_hash(flow)}


def distillation_of(config: StudentRunConfig, flow: TarFlow, training: Any) -> Distillation:
    """What is minimised; the flow's states are measured on some training images. Raises as `load_perceptual`."""
    device = process_device()
    perceptual = {name: load_perceptual(name) for name in config.student.perceptual}
    batch = spread_images(training, MEASURED, config.model.num_classes > 0, device)
    noise = StepNoise(config.train.seed, 0, len(batch.x), device)
    constants = measure_rms(flow.to(device), batch, noise, config.model.denoiser)
    decode = codec_of(config.model).decode
    return Distillation(config.student, config.model, flow, constants, config.train.label_dropout, perceptual, decode)


def spread_images(data: Any, most: int, labels: bool, device: torch.device | str = "cpu") -> Batch:
    """Up to `most` images as a batch, evenly spread over a data set, which a folder of classes has sorted by class."""
    num = min(most, len(data))
    pixels, y, index = Numbered(data).__getitems__(spread_rows(len(data), num))
    x = floats(data, pixels).to(device)
    return Batch(x, y.to(device) if labels else None, index, torch.zeros(num, dtype=torch.bool, device=device))


@torch.no_grad()
def evaluation(model: BackwardModel, objective: Distillation, test: Any) -> dict[str, float]:
    """Distances on test images, with their labels and always the same noise: `test_image`, `test_state-i`."""
    batch = spread_images(test, EVALUATED, model.config.num_classes > 0, model.device)
    taught = objective.taught(batch, StepNoise(0, 0, len(batch.x), model.device))
    found: dict[str, Tensor] = objective.distances(model(taught.z, batch.y), taught.targets(model.config.denoiser))
    return {f"test_{name}": float(distance.mean()) for name, distance in found.items()}
