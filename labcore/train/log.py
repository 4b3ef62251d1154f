"""What a run writes while it goes: log.jsonl (one record a line), tensorboard, and a progress bar or plain lines."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labcore.files import write_atomic
from labcore.jsonfile import parse_json
from labcore.live import in_live_notebook
from labcore.train.board import Board


class RunLog:
    """The log of one run. Records later than `step` are dropped on opening: a resumed run writes them again, the same."""

    def __init__(self, folder: Path, step: int, total: int, enabled: bool = True):
        self.enabled, self.total, self._bar = enabled, total, None
        if not enabled:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        kept = "".join(json.dumps(r) + "\n" for r in read_log(folder) if r["step"] <= step)
        if self.path.exists() and self.path.read_bytes() != kept.encode():
            write_atomic(self.path, kept)
        self._file = open(self.path, "a")  # noqa: SIM115 (closed in `close`)
        self._board = _tensorboard(folder / "tensorboard", step)
        self._bar = _progress_bar(step, total)
        self._clock = (time.perf_counter(), step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one record and show it."""
        if not self.enabled:
            return
        then, since = self._clock
        if step > since:
            self._clock = (time.perf_counter(), step)
            values = {**values, "seconds_per_step": round((self._clock[0] - then) / (step - since), 5)}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            with self._without_board_on_error():
                for name, value in values.items():
                    if isinstance(value, int | float):
                        self._board.add_scalar(name, value, step)
        self._show(step, values)

    def say(self, text: str) -> None:
        """One line above the steps."""
        if self.enabled:
            print(text, flush=True)

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        if self._bar is not None:
            self._bar.n = step
            self._bar.update(0)

    def close(self) -> None:
        if not self.enabled:
            return
        self._file.close()
        if self._board is not None:
            with self._without_board_on_error():
                self._board.close()
        if self._bar is not None:
            self._bar.close()

    @contextlib.contextmanager
    def _without_board_on_error(self) -> Iterator[None]:
        """Go on without tensorboard where its file cannot be written: log.jsonl has the same, and checkpoints matter more."""
        try:
            yield
        except OSError as error:
            self._board = None
            warnings.warn(
                f"tensorboard could not be written ({error.strerror or error}) and gets no more of this run; log.jsonl has all",
                stacklevel=4,
            )

    def _show(self, step: int, values: dict[str, Any]) -> None:
        short = {k: v for k, v in values.items() if isinstance(v, int | float) and "/" not in k}
        text = "  ".join(f"{k} {v:.4g}" for k, v in short.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
        else:
            print(f"step {step}/{self.total}  {text}", flush=True)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's log.jsonl, oldest first.

    Lines that are no records are left out: the last one may have been cut short by a kill; a warning counts any others.
    """
    path = Path(folder) / "log.jsonl"
    if not path.exists():
        return []
    found = [_record(line) for line in path.read_text(errors="replace").split("\n") if line]
    if damaged := sum(record is None for record in found[:-1]):
        warnings.warn(
            f"{path} is damaged: {damaged} of {len(found)} lines are no records and are left out; restore the file from a "
            "copy to have them",
            stacklevel=2,
        )
    return [record for record in found if record is not None]


def _record(line: str) -> dict[str, Any] | None:
    """The record in a line of log.jsonl, None where there is none."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def count_records(folder: Path, step: int) -> int:
    """Records in a run's log.jsonl up to a step."""
    return sum(record["step"] <= step for record in read_log(folder))


def check_records(folder: Path, step: int, written: int) -> None:
    """Warn where log.jsonl has fewer records up to a checkpoint's step than were written when it was saved."""
    here = count_records(folder, step)
    if here < written:
        warnings.warn(
            f"{folder / 'log.jsonl'} has {here} records up to step {step}, and {written} were written; the missing ones "
            "cannot be written again, since training goes on after that step",
            stacklevel=2,
        )


def _progress_bar(step: int, total: int):
    """tqdm in a terminal, its widget in a live notebook; None where nobody watches, and plain lines are printed."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        return tqdm(total=total, initial=step, unit="step", mininterval=0.5)
    if in_live_notebook():
        from tqdm.notebook import tqdm

        return tqdm(total=total, initial=step, unit="step", mininterval=0.5)
    return None


def _tensorboard(folder: Path, step: int):
    """A writer that forgets what was logged after `step`, or None where tensorboard is not installed."""
    try:
        return Board(folder, step)
    except ImportError:
        return None
