"""State of a run, stored in its folder:

    run.json        id, spec, row, seed, parameters, status and every attempt; replaced atomically
    .lock           held by the process that runs it; the system releases it when that process ends, for any reason

A run.json with the status "running" whose lock is free belongs to a run that was killed. The time of day is recorded for
people only and decides nothing; durations are measured by a monotonic clock.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from labcore import locks
from labcore.campaigns.spec import Run
from labcore.jsonfile import parse_json, write_json

STATE, LOCK, KERNEL, RESULT = "run.json", ".lock", ".kernel", "result.json"
STATUSES = ("new", "running", "done", "failed", "stopped", "killed")
"""run.json holds one of the first five; "killed" is a run with the status "running" that no process runs."""
KEYS = {"id", "spec", "row", "seed", "parameters", "status", "attempts"}


class Busy(Exception):
    """Another process runs this run; the message names it."""


class State(NamedTuple):
    """A run's folder and the contents of its run.json."""

    folder: Path
    values: dict[str, Any]

    @property
    def status(self) -> str:
        return self.values["status"]

    @property
    def done(self) -> bool:
        """Whether the run is finished and its result.json still exists."""
        return self.status == "done" and (self.folder / RESULT).is_file()

    @property
    def code(self) -> str | None:
        """Hash of the code that the last attempt ran; None if it was not recorded."""
        attempts = self.values["attempts"]
        return attempts[-1].get("code") if attempts else None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all attempts that were not killed."""
        return sum(attempt.get("seconds") or 0.0 for attempt in self.values["attempts"])

    @property
    def error(self) -> str | None:
        """The reason why the last attempt failed or stopped; None if it did not."""
        attempts = self.values["attempts"]
        return attempts[-1].get("error") if attempts else None


def now() -> str:
    """Return the time of day, for people to read."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")


def save(state: State) -> None:
    """Write run.json."""
    write_json(state.folder / STATE, state.values)


def read(folder: Path) -> State | None:
    """Read run.json; None if there is none. Raises ValueError if it is damaged."""
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
    if not _is_state(values):
        raise ValueError(f"{folder / STATE} is damaged; run `lab run` with its spec again, which renames it")
    return State(folder, values)


def _is_state(values: Any) -> bool:
    """Whether values can be the contents of a run.json."""
    if not isinstance(values, dict) or not values.keys() >= KEYS or values["status"] not in STATUSES:
        return False
    attempts, parameters = values["attempts"], values["parameters"]
    if not isinstance(attempts, list) or not all(map(_is_attempt, attempts)):
        return False
    return isinstance(parameters, dict) and (bool(attempts) or values["status"] != "done")


def _is_attempt(values: Any) -> bool:
    """Whether values can be the entry of one attempt in a run.json."""
    if not isinstance(values, dict):
        return False
    return isinstance(values.get("seconds"), int | float | None) and isinstance(values.get("error"), str | None)


def prepare_run_folder(run: Run, root: Path) -> State:
    """Return the state of `run` in its folder under `root`; make it if run.json is missing or damaged.

    A damaged run.json is renamed, and checkpoints in the folder stay. Raises Busy if run.json must change while another
    process runs the run, and OSError if the folder cannot be written.
    """
    folder = run.folder(root)
    details = {
        "source": os.path.relpath(run.notebook, folder),
        "timeout": run.timeout,
    }  # these may differ between calls
    details |= {"given": run.changed, "code": run.code, "parameters": run.parameters}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(ValueError):
            state = read(folder)
            if state is not None and (state.done or state.values.items() >= details.items()):
                return state
        with lock_folder(folder):
            state = _read_or_make(run, folder)
            state.values.update(details)
            save(state)
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror or error}); free space, or give another folder with --root"
        ) from None
    return state


def _read_or_make(run: Run, folder: Path) -> State:
    """Read run.json, or make a new one. A damaged one is renamed."""
    try:
        return read(folder) or State(folder, fresh(run))
    except ValueError:
        renamed = _free_name(folder, "run-damaged", ".json")
        os.replace(folder / STATE, renamed)
        print(f"{run.name}: run.json was damaged and is now {renamed.name}; the run continues from its checkpoints")
        return State(folder, fresh(run))


def fresh(run: Run) -> dict[str, Any]:
    """Return the contents of run.json for a run that has not started."""
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
    """Lock a run's folder for this process. Raises Busy if another process holds it for longer than `wait` seconds.

    The lock ends with the process, however that ends.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.locked(folder / LOCK, wait))
        except locks.Held as held:
            raise Busy(f"running elsewhere, {held.holder}") from None
        yield


def holder(folder: Path) -> str | None:
    """Name the process that holds a run's folder ("running elsewhere, pid 1 on host"); None if the lock is free."""
    found = locks.holder(folder / LOCK)
    return None if found is None else f"running elsewhere, {found}"


def status_of(state: State) -> str:
    """Return the status; "killed" for a run with the status "running" that no process runs."""
    if state.status == "running" and holder(state.folder) is None:
        return "killed"
    return state.status


def states(root: Path, specs: list[str] | None = None, damaged: list[Path] | None = None) -> list[State]:
    """Read all runs below `root`. specs: only these; None for all. damaged: gets the folders whose run.json is damaged."""
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
