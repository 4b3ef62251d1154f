"""What a run has come to, in its own folder:

    run.json        id, spec, row, seed, parameters, status and every attempt; replaced whole, never written in place
    .lock           held by the process that runs it, and released by its end, however it ends

A run.json that says "running" beside a free lock means that the run was killed. Nothing is decided by the clock: times of
day are there for people, and durations come from a clock that does not jump.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from labcore import locks
from labcore.campaigns.spec import Run
from labcore.files import write_atomic
from labcore.jsonfile import parse_json

STATE, LOCK, KERNEL, RESULT = "run.json", ".lock", ".kernel", "result.json"
STATUSES = ("new", "running", "done", "failed", "stopped", "killed")
"""run.json says one of the first five; "killed" is "running" that nobody runs."""
KEYS = {"id", "spec", "row", "seed", "parameters", "status", "attempts"}


class Busy(Exception):
    """Another process runs this; the message says which."""


class State(NamedTuple):
    """A folder and what its run.json holds."""

    folder: Path
    values: dict[str, Any]

    @property
    def status(self) -> str:
        return self.values["status"]

    @property
    def done(self) -> bool:
        """Whether it has come to its end, and its numbers are still there."""
        return self.status == "done" and (self.folder / RESULT).is_file()

    @property
    def code(self) -> str | None:
        """Hash of the code that the last attempt ran; None where it was not noted."""
        attempts = self.values["attempts"]
        return attempts[-1].get("code") if attempts else None

    @property
    def seconds(self) -> float:
        """Wall seconds of all attempts that came to an end of their own."""
        return sum(attempt.get("seconds") or 0.0 for attempt in self.values["attempts"])

    @property
    def error(self) -> str | None:
        """Why the last attempt ended, where it did not succeed."""
        attempts = self.values["attempts"]
        return attempts[-1].get("error") if attempts else None


def now() -> str:
    """The time of day, for people to read."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")


def save(state: State) -> None:
    """Write run.json."""
    write_atomic(state.folder / STATE, json.dumps(state.values, indent=2) + "\n")


def read(folder: Path) -> State | None:
    """What run.json says, None where there is none; ValueError where it is damaged."""
    try:
        text = (folder / STATE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        text = ""
    try:
        values = parse_json(text)
    except ValueError:
        values = None
    if not _whole(values):
        raise ValueError(f"{folder / STATE} is damaged; give `lab run` with its spec again, which sets it aside")
    return State(folder, values)


def _whole(values: Any) -> bool:
    """Whether these can be the contents of a run.json."""
    if not isinstance(values, dict) or not values.keys() >= KEYS or values["status"] not in STATUSES:
        return False
    attempts, parameters = values["attempts"], values["parameters"]
    if not isinstance(attempts, list) or not all(map(_is_attempt, attempts)):
        return False
    return isinstance(parameters, dict) and (bool(attempts) or values["status"] != "done")


def _is_attempt(values: Any) -> bool:
    """Whether these can be what a run.json holds of one attempt."""
    if not isinstance(values, dict):
        return False
    return isinstance(values.get("seconds"), int | float | None) and isinstance(values.get("error"), str | None)


def prepare(run: Run, root: Path) -> State:
    """The state of `run` in its folder under `root`, newly made where there is none or a damaged one.

    A damaged run.json is set aside, and checkpoints in the folder stay where they are. Raises Busy where another process
    would have to be disturbed, OSError where the folder cannot be written.
    """
    folder = run.folder(root)
    how = {"source": os.path.relpath(run.notebook, folder), "timeout": run.timeout}  # may differ from call to call
    how |= {"given": run.changed, "code": run.code, "parameters": run.parameters}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(ValueError):
            state = read(folder)
            if state is not None and (state.done or all(state.values.get(key) == value for key, value in how.items())):
                return state
        with lock_folder(folder):
            try:
                state = read(folder) or State(folder, fresh(run))
            except ValueError:
                aside = _free_name(folder, "run-damaged", ".json")
                os.replace(folder / STATE, aside)
                print(f"{run.name}: run.json was damaged and is now {aside.name}; the run goes on from what was saved")
                state = State(folder, fresh(run))
            state.values.update(how)
            save(state)
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror or error}); free space, or give another folder with --root"
        ) from None
    return state


def fresh(run: Run) -> dict[str, Any]:
    """run.json of a run that has not begun."""
    return {
        "id": run.id,
        "spec": run.spec,
        "row": run.row,
        "seed": run.seed,
        "smoke": run.smoke,
        "notebook": run.notebook.name,
        "parameters": run.parameters,
        **({"contents": dict(run.contents)} if run.contents else {}),
        "status": "new",
        "attempts": [],
    }


def _free_name(folder: Path, stem: str, suffix: str) -> Path:
    names = (folder / f"{stem}-{number}{suffix}" for number in range(1, 1000))
    return next(path for path in names if not path.exists())


@contextlib.contextmanager
def lock_folder(folder: Path, wait: float = 1.0) -> Iterator[None]:
    """Hold a run's folder for this process; Busy where another holds it for longer than `wait` seconds.

    The claim ends with the process, however that ends.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.locked(folder / LOCK, wait))
        except locks.Held as held:
            raise Busy(f"running elsewhere, {held.holder}") from None
        yield


def holder(folder: Path) -> str | None:
    """Who holds a run's folder ("running elsewhere, pid 1 on host"); None where nobody does."""
    found = locks.holder(folder / LOCK)
    return None if found is None else f"running elsewhere, {found}"


def status_of(state: State) -> str:
    """The status, with "killed" for a run that says "running" and that nobody runs."""
    if state.status == "running" and holder(state.folder) is None:
        return "killed"
    return state.status


def states(root: Path, specs: list[str] | None = None, damaged: list[Path] | None = None) -> list[State]:
    """Every run below `root`, of these specs only where they are given; folders of damaged ones go to `damaged`."""
    found = []
    for path in sorted(root.glob(f"*/*/{STATE}")):
        if specs is None or path.parent.parent.name in specs:
            try:
                if (state := read(path.parent)) is not None:
                    found.append(state)
            except ValueError:
                if damaged is not None:
                    damaged.append(path.parent)
    return found
