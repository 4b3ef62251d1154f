"""How a training is shown to whoever started it: by one output of a notebook's cell that is updated, or by lines in a script.

What a cell shows is read from the run's folder, log.jsonl and previews/, so it is the same whoever trains, and afterwards.
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
"""How a line of `labcore.train.log.Lines` about a step begins."""
NOTES = 8
"""Messages that a cell shows, the last ones; a training of several processes has all in train.out."""
NUMBERS = ("nats_per_dim", "test_nats_per_dim", "align", "test_image")
"""Numbers of a record that a cell's line has; of a record with none of them it has the loss."""
SHARE = 0.05
"""Reading the log and drawing may take so much of a cell's time; our choice."""


def reporter_for(folder: Path) -> Reporter:
    """A cell's output in a notebook; in a script a bar on a terminal, or a line a tenth of the way."""
    if in_kernel():
        return Cell(folder)
    return usual_reporter() if sys.stderr.isatty() else Tenths()


class Tenths(Lines):
    """Messages, the first record, and a record for each tenth of the way, as lines."""

    def __init__(self, show: Callable[[str], None] = print_line):
        super().__init__(show)
        self._tenth = -1

    def record(self, step: int, total: int, numbers: str) -> None:
        if 10 * step // total > self._tenth:
            self._tenth = 10 * step // total
            super().record(step, total, numbers)


class Cell:
    """One output of a notebook's cell: a line, then the run's curves and its newest samples.

    It is updated in place, so that a stored notebook holds its last state alone. Where nobody watches, pictures are drawn
    once, at the end, and a line a tenth of the way goes to `labcore.live.PROGRESS`.
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
        if self._handle is None:  # a mistake was raised before anything was shown, or this was called before
            return
        self._look(draw=True)
        self._show(ended=True)
        self._handle = None

    def _look(self, draw: bool) -> None:
        """Read what the run has written, and draw it."""
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
        """How far the run is, in a line; nothing for a run of which no step was heard."""
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
    """Report a line that a training of other processes has written: a record, or else a message."""
    if known := STEP.match(line):
        reporter.record(int(known[1]), int(known[2]), line[known.end() :])
    else:
        reporter.say(line)


def _numbers(record: Mapping[str, Any]) -> str:
    found = {key: record[key] for key in NUMBERS if key in record}
    return in_short(found or {key: record[key] for key in ("loss",) if key in record}).replace("  ", ", ")


def _drawn(folder: Path, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The picture of a run as a PNG in base64, and what it shows in words."""
    from labcore.viz.panel import png_of
    from labcore.viz.training import training
    from labcore.viz.words import described

    previews = sorted((folder / "previews").glob("step-*.png"))
    figure = training(records, previews[-1] if previews else None)
    return {"image/png": b64encode(png_of(figure)).decode(), "words": described(figure)}


def _bundle(lines: Sequence[str], picture: Mapping[str, str]) -> dict[str, str]:
    """Lines and a picture under them as one output; its words are for readers who cannot see the picture."""
    message = "\n".join([*lines, picture["words"]] if picture else lines)
    shown = "".join(f'<div style="overflow-wrap: anywhere">{html.escape(line)}</div>' for line in lines)
    if not picture:
        return {"text/plain": message, "text/html": shown}
    shown += f'<img src="data:image/png;base64,{picture["image/png"]}" alt="{html.escape(picture["words"])}">'
    return {"text/plain": message, "text/html": shown, "image/png": picture["image/png"]}


def _duration(seconds: float) -> str:
    """Seconds in the largest units that say enough: "45 s", "3.2 min", "5.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
