"""Runs on this machine: a child process per run with devices of its own, as many at a time as the GPUs allow or as asked.

Finished runs are skipped and all others are started. A run that failed, was stopped or was killed continues from its
checkpoints. A run that another runner works on is left to it, and waited for at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from labcore.campaigns import execute, state
from labcore.campaigns.progress_table import ProgressTable
from labcore.campaigns.spec import Run
from labcore.processes import usable_cores
from labcore.terminal import seen_from_here

POLL = 0.1  # seconds


def run_spec(
    runs: Sequence[Run],
    root: Path,
    jobs: int | None = None,
    devices: Sequence[str] | None = None,
    live: bool | None = None,
) -> int:
    """Finish all `runs` below `root`; return 0 if all are done, 1 if some failed, 143 if stopped by a signal.

    A run takes as many devices as its parameter `processes` says.

    jobs: child processes at a time; None: as many as can have their own devices, or 1 on a CPU. devices: names for
    CUDA_VISIBLE_DEVICES; None for those of this machine. live: whether the progress table stays in place; None for True on
    a terminal.

    Raises OSError if `root` cannot be written, and ValueError for jobs below 1 and for a run that takes more devices than
    there are.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs was {jobs}; give at least 1")
    progress = ProgressTable([run.name for run in runs], live)
    try:
        waiting = _skip_finished(runs, root, progress)
        return _Runner(waiting, root, progress, jobs, devices).go() if waiting else 0
    finally:
        progress.close()


def _skip_finished(runs: Sequence[Run], root: Path, progress: ProgressTable) -> list[Run]:
    """Return the runs that are not finished; say how many are, and which of them ran another version of the notebook."""
    waiting, outdated = [], []
    for run in runs:
        finished_state = finished(run, root)
        if finished_state is None:
            waiting.append(run)
            continue
        progress.set(run.name, "done", quiet=True)
        if None not in (run.code, finished_state.code) and finished_state.code != run.code:
            outdated.append(run.name)
    if len(waiting) < len(runs):
        progress.say(f"{len(runs) - len(waiting)} of {len(runs)} runs are done already")
    if outdated:
        names = ", ".join(outdated[:3]) + (" ..." if len(outdated) > 3 else "")
        progress.say(
            f"note: {len(outdated)} of them ({names}) ran another version of {runs[0].notebook.name}; to run the current "
            f"version, remove their folders in {seen_from_here(runs[0].folder(root).parent)}"
        )
    return waiting


def finished(run: Run, root: Path) -> state.State | None:
    """Return the state of a finished run, else None. Reads one small file."""
    with contextlib.suppress(ValueError):
        found = state.read(run.folder(root))
        return found if found is not None and found.done else None
    return None


def devices_of(run: Run) -> int:
    """Return the number of devices that a run takes: one for each of its processes; one at the smoke size."""
    return 1 if run.smoke else int(run.parameters.get("processes") or 1)


def visible_devices() -> list[str]:
    """List the names of the CUDA devices that this process may use; none on a CPU."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
    if not (Path("/proc/driver/nvidia").exists() or Path("/dev/dxg").exists()):
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


class _Child:
    """A started run."""

    def __init__(self, run: Run, folder: Path, devices: Sequence[str], threads: int):
        self.run, self.folder, self.devices = run, folder, list(devices)
        env = os.environ | {"OMP_NUM_THREADS": str(run.threads or threads), "PYTHONUNBUFFERED": "1"}
        if devices:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        command = [sys.executable, "-m", "labcore.campaigns.execute", str(folder), "--parent", str(os.getpid())]
        with open(
            folder / execute.LOG, "ab"
        ) as log:  # the kernel's own messages; the lines of its cells are written there too
            self.process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )


class _Runner:
    """State of one call of `run_spec`."""

    def __init__(
        self, runs: list[Run], root: Path, progress: ProgressTable, jobs: int | None, devices: Sequence[str] | None
    ):
        self.waiting, self.root, self.progress = list(runs), root, progress
        self.devices = list(visible_devices() if devices is None else devices)
        largest = max(runs, key=devices_of)
        if self.devices and devices_of(largest) > len(self.devices):
            raise ValueError(
                f"{largest.name} takes {devices_of(largest)} devices, one for each of its processes, and there are "
                f"{len(self.devices)} here; give --set processes={len(self.devices)}"
            )
        self.jobs = jobs or len(self.devices) // devices_of(largest) or 1
        cores_of_a_run = max(1, usable_cores() // min(self.jobs, len(runs)))
        self.threads = min(cores_of_a_run, int(os.environ.get("OMP_NUM_THREADS") or cores_of_a_run))
        self.children: list[_Child] = []
        self.elsewhere: list[Run] = []
        self.failed = 0
        self.signals = 0

    def go(self) -> int:
        """Work until no run is left, or until all are stopped; return the exit status."""
        with self._signals():
            while self._unfinished():
                while self.waiting and len(self.children) < self.jobs and not self.signals:
                    self._start(self.waiting.pop(0))
                self._collect()
                if not self.children and not self.waiting and not self.signals:
                    self._take_over()
                time.sleep(POLL)
        self.progress.say(self.progress.counts())
        if self.signals:
            return execute.STOPPED
        return execute.FAILED if self.failed else execute.DONE

    def _unfinished(self) -> bool:
        if self.signals:
            return bool(self.children)
        return bool(self.waiting or self.children or self.elsewhere)

    def _start(self, run: Run) -> None:
        try:
            folder = state.prepare_run_folder(run, self.root).folder
            if note := state.holder(folder):
                raise state.Busy(note)
        except state.Busy as busy:
            self._leave(run, str(busy))
            return
        child = _Child(run, folder, self._free_devices(devices_of(run)), self.threads)
        self.children.append(child)
        if self.signals:  # the signal came while the child was being started
            child.process.terminate()
        self.progress.follow(run.name, folder / execute.LOG)
        self.progress.set(run.name, "running", f"on GPU {','.join(child.devices)}" if child.devices else "")

    def _free_devices(self, count: int) -> list[str]:
        """Return the devices with the fewest children; none on a CPU."""
        used = [device for child in self.children for device in child.devices]
        return sorted(self.devices, key=used.count)[:count]

    def _collect(self) -> None:
        for child in list(self.children):
            code = child.process.poll()
            self.progress.drain(child.run.name, last=code is not None)
            if code is None:
                continue
            self.children.remove(child)
            if code == execute.BUSY:
                self._leave(child.run, state.holder(child.folder) or "running elsewhere")
            elif code == execute.DONE:
                self.progress.set(child.run.name, "done")
            elif code in (execute.STOPPED, -signal.SIGTERM) and self.signals:
                self.progress.set(child.run.name, "stopped")
            else:
                self.failed += 1
                self.progress.set(child.run.name, "failed" if code > 0 else "killed", self._reason(child, code))

    def _reason(self, child: _Child, code: int) -> str:
        """Give the error in run.json, else the exit status, and the log to look at."""
        found = None
        with contextlib.suppress(ValueError, OSError):
            found = state.read(child.folder)
        ending = f"exit status {code}" if code > 0 else f"signal {-code}"
        reason = found.error if found is not None and found.status in ("failed", "stopped") else None
        return f"{(reason or ending).splitlines()[0]} (see {seen_from_here(child.folder / execute.LOG)})"

    def _leave(self, run: Run, note: str) -> None:
        if run not in self.elsewhere:
            self.elsewhere.append(run)
        self.progress.set(run.name, "elsewhere", note)

    def _take_over(self) -> None:
        """Look at runs that another runner worked on: note the done and failed ones, take over the stopped and killed ones."""
        for run in list(self.elsewhere):
            folder = run.folder(self.root)
            if state.holder(folder):
                continue
            self.elsewhere.remove(run)
            found = None
            with contextlib.suppress(ValueError):
                found = state.read(folder)
            if found is not None and found.done:
                self.progress.set(run.name, "done", "by another runner")
            elif found is not None and found.status == "failed":
                self.failed += 1
                self.progress.set(run.name, "failed", f"by another runner: {(found.error or '').splitlines()[0]}")
            else:
                self.waiting.append(run)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Pass SIGTERM, SIGHUP and Ctrl-C on to the children once, so that they save; a third signal kills them."""

        def note(number: int, _frame) -> None:
            self.signals += 1
            for child in self.children:
                if self.signals == 1:
                    child.process.terminate()
                elif self.signals > 2:
                    child.process.kill()

        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
