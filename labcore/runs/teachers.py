"""Flows that an experiment needs before it can begin: found, or trained once on this machine and kept."""

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
"""Version of the training code in the name of a kept run. Raise it with a change after which the same settings train another
flow. The first value was labcore's version, so folders made by 0.1.0 are found."""


def teacher(source: str, seed: int = 0, steps: int | None = None, stopped: int = 100) -> Path | str:
    """What `find_model` takes: `source` itself, or for a preset's name the folder of its run in the cache.

    That run is trained first where it is not there, with this seed and so many steps (None: the preset's). Who needs the
    same run meanwhile waits for it. stopped: percent of the training after which the flow is wanted, 25, 50, 75 or 100.
    Raises as `train_streamed`; ValueError for another percentage.
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
    """The configuration of such a run: a preset with a seed, and with so many steps, a quarter of them to a checkpoint."""
    steps = steps or PRESETS[preset]["train"]["steps"]
    train = dict(seed=seed, steps=steps, eval_every=steps, save_every=max(steps // 4, 1), keep=8)
    return configure(preset, settings=[f"train.{key}={value}" for key, value in train.items()])


def train_if_missing(
    config: RunConfig,
    processes: int = 1,
    show: Callable[[str], None] | None = None,
    known_as: RunConfig | None = None,
) -> Path:
    """The folder of the finished run of a configuration, in the cache folder: by a hash of that, data and version.

    known_as: the configuration that is hashed, where `config` differs from it in how the run is carried out alone. Raises as
    `train_streamed`, which trains it on so many devices where it is not there.
    """
    images = datasets(config)[0]
    # settings that are younger than the folders in users' caches, which are found without them
    values = (known_as or config).model_dump(mode="json", exclude={"model": {"class_names"}, "train": {"tf32"}})
    values["data"] = {
        **values["data"],
        "path": None,
    }  # where the pictures lie does not matter: `data` says which they are
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
        )  # what the caller reads later, `lab cache prune` leaves alone
        in_use.note_use(folder)
    return folder


def _place(values: dict[str, Any], data: str) -> Path:
    """The folder of a run with these settings on data of this fingerprint."""
    return cache_folder() / "teachers" / sha256_of([values, data, TEACHER_VERSION])[:16]
