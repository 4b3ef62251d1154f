"""Log of a run: log.jsonl (one record per line) and tensorboard; and reporters of its progress: a bar, or plain lines."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from labcore.files import write_atomic
from labcore.jsonfile import parse_json
from labcore.live import in_live_notebook
from labcore.train.board import Board


@runtime_checkable
class Reporter(Protocol):
    """Shows a run's progress to its viewers."""

    def say(self, text: str) -> None:
        """Show a message."""

    def record(self, step: int, total: int, numbers: str) -> None:
        """Show the record that was just written to the log; previews of the same step exist already."""

    def advance(self, step: int, total: int) -> None:
        """Note that a step was done."""

    def close(self) -> None:
        """Show the last state; the run has ended, normally or by an error."""


def print_line(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


class Lines:
    """Every message and every record as a line of text, printed or given to a function."""

    def __init__(self, show: Callable[[str], None] = print_line):
        self._show = show

    def say(self, text: str) -> None:
        self._show(text)

    def record(self, step: int, total: int, numbers: str) -> None:
        self._show(f"step {step}/{total}  {numbers}")

    def advance(self, step: int, total: int) -> None:
        pass

    def close(self) -> None:
        pass


class Bar:
    """A progress bar of tqdm with the newest numbers next to it, and messages above it."""

    def __init__(self, tqdm: Any):
        self._tqdm, self._bar = tqdm, None

    def say(self, text: str) -> None:
        print_line(text)

    def record(self, step: int, total: int, numbers: str) -> None:
        self.advance(step, total)
        self._bar.set_postfix_str(numbers, refresh=False)

    def advance(self, step: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._tqdm(total=total, initial=step, unit="step", mininterval=0.5)
        self._bar.n = step
        self._bar.update(0)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class RunLog:
    """The log of one run. Opening it drops records later than `step`: a resumed run writes the same records again.

    settings: the run's configuration, for tensorboard. Previews of a record's step are copied there too.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        total: int,
        reporter: Reporter | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        self.total = total
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        kept = "".join(json.dumps(r) + "\n" for r in read_log(folder) if r["step"] <= step)
        if self.path.exists() and self.path.read_bytes() != kept.encode():
            write_atomic(self.path, kept)
        self._file = open(self.path, "a")  # noqa: SIM115 (closed in `close`)
        self._board = _tensorboard(folder / "tensorboard", step)
        if self._board is not None and settings:
            with self._without_board_on_error():
                self._board.add_settings(settings)
        self._reporter = reporter or usual_reporter()
        if step == total:
            self._reporter.say(found_finished(folder, step))
        else:
            self._reporter.advance(step, total)
        self._clock = (time.perf_counter(), step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one record and show it."""
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
                preview = self.path.parent / preview_name(step)
                if preview.is_file():
                    self._board.add_picture("samples", preview, step)
        self._reporter.record(step, self.total, in_short(values))

    def say(self, text: str) -> None:
        """Show a message."""
        self._reporter.say(text)

    def advance(self, step: int) -> None:
        """Tell the reporter that a step was done."""
        self._reporter.advance(step, self.total)

    def close(self) -> None:
        """Close the files; the reporter shows its last state."""
        self._file.close()
        if self._board is not None:
            with self._without_board_on_error():
                self._board.close()
        self._reporter.close()

    @contextlib.contextmanager
    def _without_board_on_error(self) -> Iterator[None]:
        """Continue without tensorboard if its file cannot be written; log.jsonl has the same values."""
        try:
            yield
        except OSError as error:
            self._board = None
            warnings.warn(
                f"tensorboard files could not be written ({error.strerror or error}), so they end here; log.jsonl is complete",
                stacklevel=4,
            )


class SilentLog:
    """The log of any process but the first: it writes and shows nothing."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        pass

    def advance(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass


def preview_name(step: int) -> str:
    """Return the name of a step's grid of samples in a run's folder."""
    return f"previews/step-{step:08d}.png"


def in_short(values: Mapping[str, Any]) -> str:
    """Return a record's numbers in one line, without those of single blocks."""
    short = {k: v for k, v in values.items() if isinstance(v, int | float) and "/" not in k}
    return "  ".join(f"{k} {v:.4g}" for k, v in short.items())


def found_finished(folder: Path, steps: int) -> str:
    """Return the line that says that a run was finished before."""
    return f"found in {folder}, nothing trained: {steps} steps"


def training_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """Return the time of a log's steps in seconds, with evaluations, without interruptions between attempts."""
    seconds, before = 0.0, 0
    for record in records:
        seconds += record.get("seconds_per_step", 0.0) * (record["step"] - before)
        before = record["step"]
    return seconds


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's log.jsonl, oldest first.

    Lines that are not records are skipped. The last line may be cut short by a kill; a warning counts all other such lines.
    """
    path = Path(folder) / "log.jsonl"
    if not path.exists():
        return []
    found = [_record(line) for line in path.read_text(errors="replace").split("\n") if line]
    if damaged := sum(record is None for record in found[:-1]):
        warnings.warn(
            f"{path} is damaged: {damaged} of {len(found)} lines are not records and are left out; to have them, restore the "
            "file from a copy",
            stacklevel=2,
        )
    return [record for record in found if record is not None]


def _record(line: str) -> dict[str, Any] | None:
    """Return the record in a line of log.jsonl; None if there is none."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def count_records(folder: Path, step: int) -> int:
    """Count the records in a run's log.jsonl up to a step."""
    return sum(record["step"] <= step for record in read_log(folder))


def check_records(folder: Path, step: int, written: int) -> None:
    """Warn if log.jsonl has fewer records up to a checkpoint's step than when it was saved."""
    here = count_records(folder, step)
    if here < written:
        warnings.warn(
            f"{folder / 'log.jsonl'} has {here} records up to step {step}, and {written} were written; the missing ones "
            "cannot be written again, because the training continues after that step",
            stacklevel=2,
        )


def usual_reporter() -> Reporter:
    """Return a bar in a terminal or a live notebook, plain lines elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        return Bar(tqdm)
    if in_live_notebook():
        from tqdm.notebook import tqdm

        return Bar(tqdm)
    return Lines()


def _tensorboard(folder: Path, step: int):
    """Return a writer that drops what was logged after `step`; None if tensorboard is not installed."""
    try:
        return Board(folder, step)
    except ImportError:
        return None
