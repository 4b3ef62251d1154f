"""One training run from its configuration: data, model, objective, what is looked at on the way, and the finished model.

A run's folder:

    config.yaml     the run's whole configuration
    log.jsonl       one record per log step          tensorboard/   the same for tensorboard
    previews/       sample grids by step             checkpoints/   see labcore.train.checkpoint
    model/          the averaged weights at the end: TarFlow.from_pretrained(folder / "model")
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from labcore.config import BaseRunConfig
from labcore.data.class_names import with_names
from labcore.data.protocol import Dataset
from labcore.kinds import kind_of
from labcore.rng import seed_of
from labcore.runs.config_paths import anchored
from labcore.runs.folder import made, write_config
from labcore.runs.images import as_seen, data_fingerprint, pictures
from labcore.runs.models import find_teacher
from labcore.runs.previews import preview_in
from labcore.train.log import Reporter
from labcore.train.loop import Hooks, TrainResult, train

T = TypeVar("T", bound=nn.Module)


def run_training(
    config: BaseRunConfig,
    folder: str | Path,
    previews: bool = True,
    reporter: Reporter | None = None,
    on_pictures: Callable[[Dataset, Dataset], None] | None = None,
) -> TrainResult:
    """Train what `config` says in `folder`, or go on with what is there. Raises ValueError for what cannot be trained.

    reporter: as in `labcore.train.loop.Hooks`. on_pictures: called with the training and test pictures before anything long
    begins.
    """
    folder, config, kind = Path(folder), anchored(config), kind_of(config)
    teacher = find_teacher(config)
    train_pictures, test_pictures = pictures(config)
    if on_pictures:
        on_pictures(train_pictures, test_pictures)
    images, test = as_seen(config, train_pictures, test_pictures)
    config = with_names(config, images.classes)
    model, identity = initialised(kind.model, config), kind.identity(config, teacher)
    with made(folder):
        objective = kind.objective(config, images, teacher)
        hooks = Hooks(
            diagnose=kind.diagnose,
            evaluate=lambda ema: kind.evaluation(ema, objective, test),
            preview=preview_in(folder) if previews else None,
            reporter=reporter,
        )
        return carry_out(config, folder, model, objective, images, hooks, identity)


def initialised(model: Callable[[Any], T], config: BaseRunConfig) -> T:
    """The run's model at initialisation, a function of the seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(config.train.seed, "initialisation"))
        return model(config.model)


def carry_out(
    config: BaseRunConfig,
    folder: Path,
    model: nn.Module,
    objective: nn.Module,
    images: Dataset,
    hooks: Hooks,
    identity: dict[str, Any] | None = None,
) -> TrainResult:
    """Train, and write the configuration and the finished model. `identity`: what else makes the run another one."""
    run_identity = {**config.model_dump(mode="json"), "data_fingerprint": data_fingerprint(folder, images)}
    run_identity |= identity or {}
    prepared = partial(images.to_model_input, mirror=config.data.flip)
    result = train(model, objective, images, config.train, folder, prepared, run_identity, hooks)
    if is_main():
        write_config(config, folder)
        if result.finished:
            result.ema.save_pretrained(folder / "model")
    return result


def is_main() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process
