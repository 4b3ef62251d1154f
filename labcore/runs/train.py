"""One training run from its configuration: data, model, objective, evaluations during the training, and the finished model.

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
from labcore.processes import is_first_process
from labcore.rng import seed_of
from labcore.runs.config_paths import anchored
from labcore.runs.folder import writable_folder, write_config
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
    """Train a flow or student, or resume its training from the newest checkpoint in `folder`.

    Args:
        config: configuration of the run.
        folder: folder of the run, created if missing; the module lists its files.
        previews: write grids of samples; default True.
        reporter: gets the progress, as in `labcore.train.loop.Hooks`; default None.
        on_pictures: called with the training and test pictures before the first long computation; default None.

    Returns:
        The last step, whether the run is finished, its folder, and its averaged weights.

    Raises:
        ValueError: the configuration and the data do not fit, or the folder has a run with other settings or other data.
        FileNotFoundError: data or weights of frozen networks are missing.
        OSError: another process trains in the folder, or files cannot be written.
    """
    folder, config, kind = Path(folder), anchored(config), kind_of(config)
    teacher = find_teacher(config)
    train_pictures, test_pictures = pictures(config)
    if on_pictures:
        on_pictures(train_pictures, test_pictures)
    images, test = as_seen(config, train_pictures, test_pictures)
    config = with_names(config, images.classes)
    model, identity = initialised(kind.model, config), kind.identity(config, teacher)
    with writable_folder(folder):
        objective = kind.objective(config, images, teacher)
        hooks = Hooks(
            diagnose=kind.diagnose,
            evaluate=lambda ema: kind.evaluation(ema, objective, test),
            preview=preview_in(folder) if previews else None,
            reporter=reporter,
        )
        return carry_out(config, folder, model, objective, images, hooks, identity)


def initialised(model: Callable[[Any], T], config: BaseRunConfig) -> T:
    """Return the run's model at initialisation, which the seed determines; torch's global generator is not changed."""
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
    """Train, and write the configuration and the finished model.

    identity: further values that distinguish this run; resuming it with different ones is an error.
    """
    run_identity = {**config.model_dump(mode="json"), "data_fingerprint": data_fingerprint(folder, images)}
    run_identity |= identity or {}
    prepared = partial(images.to_model_input, mirror=config.data.flip)
    result = train(model, objective, images, config.train, folder, prepared, run_identity, hooks)
    if is_first_process():
        write_config(config, folder)
        if result.finished:
            result.ema.save_pretrained(folder / "model")
    return result
