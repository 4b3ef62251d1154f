"""Checkpoints: one folder per saved step, written whole or not at all.

    checkpoints/step-00001000/model/      weights and config.json, as save_pretrained writes them
                              ema/        the averaged weights, likewise: TarFlow.from_pretrained reads it
                              training.pt optimizer, objective and gradient-scaler state (tensors and numbers only)
                              state.json  step, run configuration, code version, size of every file

There is no generator state because there is none: every random number is a function of the seed and the step.
A folder is written under a temporary name, synced and renamed, so one that has its name is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

FOLDER, STATE, TRAINING = "checkpoints", "state.json", "training.pt"
OF_DATA = {"model.class_names"}
"""Settings that follow from the data, which have a fingerprint; runs of earlier versions lack them."""
MEANS = {"data_fingerprint": "the fingerprint of the images, their order, labels and classes"}
"""Names of settings in words."""


class Checkpoint(NamedTuple):
    """A complete checkpoint: where it is, and what its state.json says."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return self.state["step"]


@contextlib.contextmanager
def claim(run: Path) -> Iterator[None]:
    """Hold `run` for this process (of a group of processes the first one holds it); OSError where another trains in it.

    The claim ends with the process, however that ends. Where the system has no file locks, nothing is claimed.
    """
    if os.environ.get("RANK", "0") != "0" or fcntl is None:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OSError(
                f"another process is training in {run}; wait for it or stop it, or give another folder"
            ) from None
        yield


def save(
    run: Path, step: int, models: dict[str, Any], training: dict[str, Any], state: dict[str, Any], keep: int
) -> Path:
    """Write checkpoints/step-<step> and prune to the `keep` newest; what was saved before survives any failure here.

    models: sub-folder name -> a model with save_pretrained. Raises OSError that names the last good checkpoint.
    """
    final = run / FOLDER / f"step-{step:08d}"
    partial = final.with_suffix(".tmp")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        for name, model in models.items():
            model.save_pretrained(partial / name)
        with open(partial / TRAINING, "wb") as file:
            torch.save(training, file)
        sizes = {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
        (partial / STATE).write_text(json.dumps({"step": step, **state, "files": sizes}, indent=2) + "\n")
        for p in partial.rglob("*"):
            if p.is_file():
                _sync(p)
        if final.exists():  # the same step again, after a resume from before it
            shutil.rmtree(final)
        os.replace(partial, final)
        _sync(final.parent)
    except Exception as error:  # safetensors and torch.save wrap a full disk in errors of their own
        shutil.rmtree(partial, ignore_errors=True)
        good = latest_path(run)
        raise OSError(
            f"could not save step {step} to {final.parent}: {error}. "
            f"{f'The last good checkpoint is {good.name}' if good else 'No checkpoint has been saved yet'}; "
            "free space or fix the folder and give the same command again"
        ) from error
    _prune(run, final, keep)
    return final


def latest(run: Path) -> Checkpoint | None:
    """The newest complete checkpoint, skipping damaged ones with a warning; None where there is none at all.

    Raises ValueError where checkpoints exist and all are damaged: starting over would hide that.
    """
    damage = []
    for folder in folders(run):
        try:
            found = Checkpoint(folder, read_state(folder))
            read_training(found, torch.device("cpu"))
        except ValueError as error:
            damage.append(str(error))
            continue
        if damage:
            warnings.warn(f"{'; '.join(damage)}. Going on from {folder.name}", stacklevel=2)
        return found
    if damage:
        everything = "; ".join(damage)
        raise ValueError(f"every checkpoint in {run / FOLDER} is damaged ({everything}); move them away to start over")
    return None


def latest_path(run: Path) -> Path | None:
    """Folder of the newest checkpoint, unread."""
    return next(iter(folders(run)), None)


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint whose files are all there at their full size; ValueError says what is wrong."""
    try:
        state = json.loads((folder / STATE).read_text())
        files = dict(state["files"])
        known = (
            isinstance(state["step"], int) and isinstance(state["run"], dict) and isinstance(state["precision"], str)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder.name} is damaged: {STATE} cannot be read ({type(error).__name__})") from None
    if not known:
        raise ValueError(f"{folder.name} is damaged: {STATE} does not say step, run and precision")
    for name, size in files.items():
        actual = (folder / name).stat().st_size if (folder / name).is_file() else None
        if actual != size:
            what = "is missing" if actual is None else f"has {actual} bytes instead of {size}"
            raise ValueError(f"{folder.name} is damaged: {name} {what}")
    return state


def read_training(checkpoint: Checkpoint, device: torch.device) -> dict[str, Any]:
    """Optimizer, objective and scaler state, tensors and plain values only; ValueError where the file is something else."""
    try:
        training = torch.load(checkpoint.path / TRAINING, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise ValueError(
            f"{checkpoint.path.name} is damaged: {TRAINING} cannot be read ({type(error).__name__})"
        ) from None
    if (
        not isinstance(training, dict)
        or not {"optimizer", "objective", "scaler", "running", "averaged"} <= training.keys()
    ):
        raise ValueError(f"{checkpoint.path.name} is damaged: {TRAINING} does not hold a training state")
    return training


def check_same_run(found: Checkpoint, describe: dict[str, Any], free: set[str]) -> None:
    """ValueError where a checkpoint was made with another configuration; the dotted names in `free` may differ."""
    changed = changes(found.state["run"], describe, free)
    if changed:
        raise ValueError(
            f"{found.path.parent.parent} holds step {found.step} of another run ({'; '.join(changed)}). "
            "Give the same settings to resume it, or another folder to start anew"
        )


def changes(before: dict[str, Any], now: dict[str, Any], free: set[str]) -> list[str]:
    """What differs between two configurations, in words; the dotted names in `free` and in `OF_DATA` may differ."""
    old, new = _flat(before), _flat(now)
    return [
        f"{MEANS.get(key, key)} was {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if key not in (free | OF_DATA) and old.get(key) != new.get(key)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def folders(run: Path) -> list[Path]:
    """Folders that have a checkpoint's name, newest first; anything else in there is the user's and is left alone."""
    named = [p for p in (run / FOLDER).glob("step-*") if re.fullmatch(r"step-\d{8,}", p.name) and p.is_dir()]
    return sorted(named, key=lambda p: int(p.name.removeprefix("step-")), reverse=True)


def _prune(run: Path, newest: Path, keep: int) -> None:
    """Remove complete checkpoints older than `newest` beyond the `keep` newest, and what an interrupted save left."""
    complete = []
    for folder in folders(run):
        with contextlib.suppress(ValueError):
            read_state(folder)
            complete.append(folder)
    for old in complete[complete.index(newest) :][keep:]:
        shutil.rmtree(old)
    for partial in (run / FOLDER).glob("step-*.tmp"):
        if re.fullmatch(r"step-\d{8,}\.tmp", partial.name) and partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
