"""The process beside the benchmark: it ends a row that hangs, and goes on with the next one in a new process.

A GPU's kernel that hangs cannot be interrupted, and after some errors a process cannot use its GPU any more. What is known
lies in the record, which is read by a new process; no row is tried twice.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.card import card
from benchmarks.gpu.record import Record, file_name

AFTER = 5.0
"""Seconds after the deadline that the row at hand may take; our choice."""
WORTH = 20.0
"""Seconds that must be left for a new process to be worth starting; our choice."""


class Ended(NamedTuple):
    """Why a process ended, and whether there is time for another one."""

    reason: str
    goes_on: bool


def gpu(reference: Path | None, seconds: float, folder: Path | None, save: bool) -> int:
    """Run the GPU benchmark for at most so many seconds; the exit status.

    folder: where the record goes; None: benchmarks/results/ with `save`, else nowhere. A record that is there already is
    kept as .previous.json. Raises ValueError for a reference that is none, and for a toy record among the results.
    """
    deadline = time.time() + seconds
    if reference is not None and not (reference / "transformer_flow.py").is_file():
        raise ValueError(
            f"--reference was {reference}, which has no transformer_flow.py; give the folder of a clone of "
            "github.com/apple/ml-tarflow"
        )
    known = card()
    if save and folder is None:
        if known is None:
            raise ValueError(
                "--save without a CUDA device: the toy size's numbers are meaningless and are no result; give --results FOLDER"
            )
        folder = Path(__file__).parent.parent / "results"
    with tempfile.TemporaryDirectory() as nowhere:
        place = Path(nowhere) if folder is None else folder
        place.mkdir(parents=True, exist_ok=True)
        path = place / file_name("gpu", known["name"] if known else "cpu-toy")
        if path.exists():
            path.replace(path.with_suffix(".previous.json"))
        words = [sys.executable, "-m", "benchmarks.gpu", "rows", "--record", str(path), "--deadline", str(deadline)]
        words += ["--seconds", str(seconds), *(["--reference", str(reference)] if reference else [])]
        finished = supervise(words, path, deadline)
        if folder is not None and path.exists():
            print(f"record in {path}", flush=True)
    return 0 if finished else 1


def supervise(words: Sequence[str], path: Path, deadline: float, poll: float = 0.2) -> bool:
    """Run a command that works on the record in `path` until the record is finished; whether it is.

    A process that passes its row's limit or the deadline is ended. Rows that were not reached get the reason.
    """
    while True:
        done = len(Record.read(path).done) if path.exists() else -1
        child = subprocess.Popen(words)
        try:
            ended = watch(child, path, deadline, poll)
        finally:
            stop(child)
        if not path.exists():
            print(f"no record was written: {ended.reason}", file=sys.stderr, flush=True)
            return False
        record = Record.read(path)
        if record.values["finished"]:
            return True
        if row := record.values["running"]:
            record.leave_out(row["n"], row["name"], ended.reason)
            print(f"{row['n']:3d} {row['name']}: not run: {ended.reason}", flush=True)
        if not ended.goes_on or len(record.done) <= max(done, 0) or deadline - time.time() < WORTH:
            give_up(record, ended.reason)
            return False


def watch(child: subprocess.Popen, path: Path, deadline: float, poll: float) -> Ended:
    """Wait until the process ends or has to be ended."""
    while child.poll() is None:
        now = time.time()
        if now > deadline + AFTER:
            return Ended("time: it did not end before the deadline", False)
        row = Record.read(path).values["running"] if path.exists() else None
        if row and now > row["until"]:
            return Ended("it took longer than its limit, and its process was ended", True)
        time.sleep(poll)
    return Ended(f"its process ended with status {child.returncode}", child.returncode != 0)


def stop(child: subprocess.Popen) -> None:
    """End a process for good; one that the system cannot end is left alone."""
    if child.poll() is None:
        child.kill()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            print("a process did not end after SIGKILL; going on", file=sys.stderr, flush=True)


def give_up(record: Record, reason: str) -> None:
    """Record all rows that were not reached."""
    for n, name in record.values["planned"]:
        if n not in record.done:
            record.leave_out(n, name, f"not reached: {reason}")
