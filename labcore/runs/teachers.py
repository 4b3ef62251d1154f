"""Flows that an experiment needs first: taken from the cache folder, or trained once on this machine and kept there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from labcore import in_use
from labcore.config import RunConfig
from labcore.files import cache_folder, make_folder, sha256_of
from labcore.locks import locked
from labcore.presets import PRESETS
from labcore.runs.background import train_streamed
from labcore.runs.configure import configure
from labcore.runs.images import datasets

TEACHER_VERSION = "0.1.0"
"""Version of the training code in the name of a kept run. Raise it with every change after which the same settings give other
weights. The first value is labcore's version at that time, so folders made by 0.1.0 are found."""


def teacher(source: str, seed: int = 0, steps: int | None = None, stopped: int = 100) -> Path | str:
    """Return an argument for `find_model`: `source` itself, or for a preset the folder of its run in the cache.

    A missing run is trained first. Other processes that need the same run wait for it.

    Args:
        source: name of a preset, or anything that `find_model` takes.
        seed: random seed of the training; default 0.
        steps: steps of the training; default None, the preset's.
        stopped: percent of the training after which the flow is taken: 25, 50, 75 or 100 (default).

    Raises:
        ValueError: another percentage; else as `train_streamed`.
    """
    if stopped not in (25, 50, 75, 100) or (stopped < 100 and source not in PRESETS):
        raise ValueError(f"stopped was {stopped} for {source!r}; give 100, or for a preset 25, 50 or 75 percent")
    if source not in PRESETS:
        return source
    config = teacher_config(source, seed, steps)
    if stopped < 100 and config.train.steps % 4:
        raise ValueError(f"steps was {config.train.steps}; give a multiple of 4 to stop at {stopped} percent")
    folder = train_if_missing(config)
    return folder if stopped == 100 else folder / "checkpoints" / f"step-{config.train.save_every * stopped // 25:08d}"


def teacher_config(preset: str, seed: int, steps: int | None = None) -> RunConfig:
    """Return the configuration of such a run: a preset with this seed and length, and a checkpoint after each quarter."""
    steps = steps or PRESETS[preset]["train"]["steps"]
    train = dict(seed=seed, steps=steps, eval_every=steps, save_every=max(steps // 4, 1), keep=8)
    return configure(preset, settings=[f"train.{key}={value}" for key, value in train.items()])


def train_if_missing(
    config: RunConfig,
    processes: int = 1,
    show: Callable[[str], None] | None = None,
    known_as: RunConfig | None = None,
) -> Path:
    """Return the folder of the finished run of a configuration in the cache folder; a missing run is trained first.

    The folder is named by a hash of configuration, data and version. processes: number of devices for the training. show: as in
    `train_streamed`. known_as: the configuration to hash, if `config` differs from it only in how the run is carried out.
    Raises as `train_streamed`.
    """
    images = datasets(config)[0]
    # these settings are newer than folders in users' caches; leaving them out keeps the folders' names
    values = (known_as or config).model_dump(mode="json", exclude={"model": {"class_names"}, "train": {"tf32"}})
    values["data"] = {
        **values["data"],
        "path": None,
    }  # the path of the pictures does not matter: the fingerprint identifies them
    folder = _place(values, images.fingerprint())
    for former in (images.named_fingerprint, images.older_fingerprint):  # of folders made by earlier versions
        if not folder.is_dir() and (known := former()) is not None and _place(values, known).is_dir():
            folder = _place(values, known)
    make_folder(folder.parent)
    with locked(folder.with_suffix(".lock")):
        if not (folder / "model" / "config.json").is_file():
            train_streamed(config, folder, processes, False, show)
        in_use.keep_open(
            folder / "model" / "config.json"
        )  # the caller reads it later, so `lab cache prune` must not delete it
        in_use.note_use(folder)
    return folder


def _place(values: dict[str, Any], data: str) -> Path:
    """Return the folder of a run with these settings on data with this fingerprint."""
    return cache_folder() / "teachers" / sha256_of([values, data, TEACHER_VERSION])[:16]
