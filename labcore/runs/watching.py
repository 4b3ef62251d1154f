"""Display of a training: one output of a notebook's cell that is updated, or lines in a script.

A cell reads its contents from the run's folder (log.jsonl and previews/). So it looks the same for any process that trains,
during the training and afterwards.
"""

from __future__ import annotations

import html
import re
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labcore.live import in_kernel, in_live_notebook, tell_progress
from labcore.train.log import Lines, Reporter, in_short, print_line, read_log, training_seconds, usual_reporter

STEP = re.compile(r"step (\d+)/(\d+)  ")
"""Start of a line of `labcore.train.log.Lines` about a step."""
NOTES = 8
"""Number of last messages that a cell shows; a training of several processes has all of them in train.out."""
NUMBERS = ("nats_per_dim", "test_nats_per_dim", "align", "test_image")
"""Numbers of a record that a cell's line shows; for a record without any of them, it shows the loss."""
SHARE = 0.05
"""Largest share of a cell's time that reading the log and drawing may take; our choice."""


def reporter_for(folder: Path) -> Reporter:
    """Return a cell's output in a notebook; in a script a bar on a terminal, or else a line for each tenth of the run."""
    if in_kernel():
        return Cell(folder)
    return usual_reporter() if sys.stderr.isatty() else Tenths()


class Tenths(Lines):
    """Lines for messages, for the first record, and for one record in each tenth of the run."""

    def __init__(self, show: Callable[[str], None] = print_line):
        super().__init__(show)
        self._tenth = -1

    def record(self, step: int, total: int, numbers: str) -> None:
        if 10 * step // total > self._tenth:
            self._tenth = 10 * step // total
            super().record(step, total, numbers)


class Cell:
    """One output of a notebook's cell: a line, then the run's curves and its newest samples.

    It is updated in place, so a stored notebook holds only its last state. In a notebook that runs without a viewer, pictures
    are drawn once, at the end, and a line for each tenth of the run goes to `labcore.live.PROGRESS`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._handle: Any = None
        self._notes: list[str] = []
        self._step, self._total = 0, 0
        self._records: list[dict[str, Any]] = []
        self._picture: dict[str, str] = {}
        self._looked, self._took = float("-inf"), 0.0  # when the folder was read last, and how long that took
        self._log = Tenths(tell_progress)

    def say(self, text: str) -> None:
        self._notes.append(text)
        self._log.say(text)
        self._show()

    def record(self, step: int, total: int, numbers: str) -> None:
        self._step, self._total = step, total
        self._log.record(step, total, numbers)
        if time.monotonic() - self._looked > self._took / SHARE:
            self._look(draw=in_live_notebook())
        self._show()

    def advance(self, step: int, total: int) -> None:
        self._step, self._total = step, total
        if self._handle is None:
            self._show()

    def close(self) -> None:
        if self._handle is None:  # an error came before anything was shown, or this was called before
            return
        self._look(draw=True)
        self._show(ended=True)
        self._handle = None

    def _look(self, draw: bool) -> None:
        """Read the run's log, and draw its curves and newest samples."""
        started = time.monotonic()
        self._records = read_log(self.folder)
        if draw and self._records:
            self._picture = _drawn(self.folder, self._records)
        self._looked = time.monotonic()
        self._took = self._looked - started

    def _show(self, ended: bool = False) -> None:
        from IPython.display import display

        lines = [line for line in (self._line(ended), *self._notes[-NOTES:]) if line]
        bundle = _bundle(lines, self._picture)
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def _line(self, ended: bool) -> str:
        """Return the progress of the run as a line; "" if no step was reported."""
        if not self._total:
            return ""
        records = [record for record in self._records if record["step"] <= self._step]
        numbers = _numbers(records[-1]) if records else ""
        if self._step >= self._total:
            words = f"{self._total} steps in {_duration(training_seconds(records))}"
        elif ended:
            words = f"not finished: step {self._step} of {self._total}"
        else:
            words = f"step {self._step} of {self._total}"
            pace = records[-1].get("seconds_per_step") if records else None
            words += f", {_duration(pace * (self._total - self._step))} to go" if pace else ""
        return f"{words}; {numbers}" if numbers else words


def report_line(reporter: Reporter, line: str) -> None:
    """Report a line that a training in other processes has written, as a record or as a message."""
    if known := STEP.match(line):
        reporter.record(int(known[1]), int(known[2]), line[known.end() :])
    else:
        reporter.say(line)


def _numbers(record: Mapping[str, Any]) -> str:
    found = {key: record[key] for key in NUMBERS if key in record}
    return in_short(found or {key: record[key] for key in ("loss",) if key in record}).replace("  ", ", ")


def _drawn(folder: Path, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the picture of a run as a PNG in base64, and a description of it in words."""
    from labcore.viz.panel import png_of
    from labcore.viz.training import training
    from labcore.viz.words import described

    previews = sorted((folder / "previews").glob("step-*.png"))
    figure = training(records, previews[-1] if previews else None)
    return {"image/png": b64encode(png_of(figure)).decode(), "words": described(figure)}


def _bundle(lines: Sequence[str], picture: Mapping[str, str]) -> dict[str, str]:
    """Return lines and the picture below them as one output; the description is for readers who cannot see the picture."""
    message = "\n".join([*lines, picture["words"]] if picture else lines)
    shown = "".join(f'<div style="overflow-wrap: anywhere">{html.escape(line)}</div>' for line in lines)
    if not picture:
        return {"text/plain": message, "text/html": shown}
    shown += f'<img src="data:image/png;base64,{picture["image/png"]}" alt="{html.escape(picture["words"])}">'
    return {"text/plain": message, "text/html": shown, "image/png": picture["image/png"]}


def _duration(seconds: float) -> str:
    """Write seconds in a suitable unit: "45 s", "3.2 min", "5.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
