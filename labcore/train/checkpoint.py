"""Checkpoints: one folder per saved step, written whole or not at all.

    checkpoints/step-00001000/model/      weights and config.json, as save_pretrained writes them
                              ema/        the averaged weights, likewise: TarFlow.from_pretrained reads it
                              training.pt optimizer, objective and gradient-scaler state (tensors and numbers only)
                              state.json  step, run configuration, code version, size and sha256 of every file,
                                          and a digest of state.json itself

There is no generator state because there is none: every random number is a function of the seed and the step.
A folder is written under a temporary name, synced and renamed, so one that has its name is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from labcore.files import check_contents, check_sizes, making_folder, remove_folder, sha256, sha256_of, sync_all
from labcore.jsonfile import parse_json
from labcore.locks import Held, locked
from labcore.processes import is_first_process
from labcore.torchfile import check_records

FOLDER, STATE, TRAINING, LOCK = "checkpoints", "state.json", "training.pt", ".lock"


class Checkpoint(NamedTuple):
    """A complete checkpoint: its folder, and the content of its state.json."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return self.state["step"]


@contextlib.contextmanager
def lock_folder(run: Path) -> Iterator[None]:
    """Lock `run` for this process (in a group of processes, the first one); OSError if another process trains in it.

    The lock ends with the process, for any cause.
    """
    if not is_first_process():
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(run / LOCK, wait=0))
        except Held as held:
            raise OSError(
                f"another process is training in {run} ({held.holder}); wait for it or stop it, or give another folder"
            ) from None
        yield


def save(
    run: Path, step: int, models: dict[str, Any], training: dict[str, Any], state: dict[str, Any], keep: int
) -> Path:
    """Write checkpoints/step-<step> and delete all but the `keep` newest. Earlier checkpoints survive any failure here.

    models: sub-folder name -> a model with save_pretrained. Raises OSError that names the last good checkpoint; also,
    after the step is saved, if the run's folder had been deleted or renamed.
    """
    final = run / FOLDER / f"step-{step:08d}"
    vanished = not run.is_dir()
    try:
        with making_folder(final, final.with_suffix(".tmp")) as partial:
            for name, model in models.items():
                model.save_pretrained(partial / name)
            with open(partial / TRAINING, "wb") as file:
                torch.save(training, file)
            files = {str(p.relative_to(partial)): p for p in sorted(partial.rglob("*")) if p.is_file()}
            sizes = {name: p.stat().st_size for name, p in files.items()}
            written = {"step": step, **state, "files": sizes, "sha256": {name: sha256(p) for name, p in files.items()}}
            # as it will be read: JSON makes texts of keys and lists of tuples
            written = parse_json(json.dumps(written))
            written |= {"digest": sha256_of(written)}
            (partial / STATE).write_text(json.dumps(written, indent=2) + "\n")
            if os.path.lexists(final):  # the same step, saved before: it stays until the new one is on the disk
                sync_all(partial)
                remove_folder(final)
    except Exception as error:  # safetensors and torch.save wrap a full disk in errors of their own
        good = latest_path(run)
        raise OSError(
            f"could not save step {step} to {final.parent}: {error}. "
            f"{f'The last good checkpoint is {good.name}' if good else 'No checkpoint has been saved yet'}; "
            "free space or fix the folder and give the same command again"
        ) from error
    if vanished:
        raise OSError(
            f"{run} was deleted or renamed while a training ran in it. Step {step} was saved in a new folder of that name; "
            "move it to where the run's other checkpoints are, and give the same command with that folder to go on"
        )
    _prune(run, final, keep)
    return final


def latest(run: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint, skipping damaged ones with a warning; None if there is none.

    Raises ValueError if checkpoints exist and all are damaged: starting over would hide that.
    """
    damage = []
    for folder in folders(run):
        try:
            found = read(folder)
            if not _is_compared(found):
                read_training(found, torch.device("cpu"))
        except ValueError as error:
            damage.append(str(error))
            continue
        if damage:
            warnings.warn(f"{'; '.join(damage)}. Resuming from {folder.name}", stacklevel=2)
        return found
    if damage:
        everything = "; ".join(damage)
        raise ValueError(f"every checkpoint in {run / FOLDER} is damaged ({everything}); move them away to start over")
    return None


def latest_path(run: Path) -> Path | None:
    """Return the folder of the newest checkpoint, without reading it."""
    return next(iter(folders(run)), None)


def newest(run: Path) -> Checkpoint | None:
    """Return the newest checkpoint whose state.json can be read. Unlike `latest`, no contents of other files are verified."""
    for folder in folders(run):
        with contextlib.suppress(ValueError):
            return Checkpoint(folder, read_state(folder))
    return None


def read(folder: Path) -> Checkpoint:
    """Return the checkpoint in a folder, after verifying the contents of all its files; ValueError names the damage.

    Checkpoints of earlier versions have no checksums; for these only names and sizes are compared.
    """
    state = read_state(folder)
    try:
        check_contents(folder, state.get("sha256", {}))
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder.name} is damaged: {error}") from None
    return Checkpoint(folder, state)


def read_state(folder: Path) -> dict[str, Any]:
    """Read state.json of a checkpoint whose files all have their full size; ValueError names the problem.

    Contents of the other files are not verified: see `read`.
    """
    try:
        state = parse_json((folder / STATE).read_text())
        files = dict(state["files"])
        known = (
            isinstance(state["step"], int) and isinstance(state["run"], dict) and isinstance(state["precision"], str)
        )
        digest = state.pop("digest", None)
        known = known and isinstance(state.get("sha256", {}), dict)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder.name} is damaged: {STATE} cannot be read ({type(error).__name__})") from None
    if not known:
        raise ValueError(f"{folder.name} is damaged: {STATE} does not say step, run and precision")
    if digest not in (None, sha256_of(state)):
        raise ValueError(f"{folder.name} is damaged: {STATE} has changed since it was saved (its digest differs)")
    if _step_of(folder) not in (None, state["step"]):
        raise ValueError(
            f"{folder.name} is damaged: {STATE} is of step {state['step']}; the folder was renamed or mixed up"
        )
    try:
        check_sizes(folder, files)
    except ValueError as error:
        raise ValueError(f"{folder.name} is damaged: {error}") from None
    return state


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder has a checkpoint's name and state.json."""
    return _step_of(folder) is not None and (folder / STATE).is_file()


def read_training(checkpoint: Checkpoint, device: torch.device) -> dict[str, Any]:
    """Read optimizer, objective and scaler state, tensors and plain values only; ValueError for any other file."""
    try:
        if not _is_compared(checkpoint):
            check_records(checkpoint.path / TRAINING)
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


def _is_compared(checkpoint: Checkpoint) -> bool:
    """Whether `read` has compared training.pt with its sha256; checkpoints of earlier versions have none."""
    return TRAINING in checkpoint.state.get("sha256", {})


def folders(run: Path) -> list[Path]:
    """Return the folders with a checkpoint's name, newest first; other files belong to the user and are left alone."""
    named = [p for p in (run / FOLDER).glob("step-*") if _step_of(p) is not None and p.is_dir()]
    return sorted(named, key=_step_of, reverse=True)


def _step_of(folder: Path) -> int | None:
    """Return the step in a checkpoint folder's name; None for another name."""
    match = re.fullmatch(r"step-(\d{8,18})", folder.name, re.ASCII)
    return int(match[1]) if match else None


def _prune(run: Path, newest: Path, keep: int) -> None:
    """Delete complete checkpoints older than `newest` beyond the `keep` newest, and the remains of an interrupted save."""
    complete = []
    for folder in folders(run):
        with contextlib.suppress(ValueError):
            read_state(folder)
            complete.append(folder)
    left = [p for p in (run / FOLDER).glob("step-*.tmp") if _step_of(p.with_suffix("")) is not None and p.is_dir()]
    for old in [*complete[complete.index(newest) :][keep:], *left]:
        try:
            remove_folder(old)
        except OSError as error:  # the step is saved; room is for later
            warnings.warn(f"could not remove {old} ({error.strerror or error}); remove it by hand", stacklevel=3)
