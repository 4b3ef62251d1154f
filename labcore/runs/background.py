"""Training for a notebook's cell: in place with one process, in the background and streamed with several.

A training of several processes continues when the kernel is restarted; run the cell again, and it shows this training. If the
cell is interrupted, the training saves and stops. After a kill, run the cell again: it resumes from the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from labcore.config import BaseRunConfig
from labcore.data.loaders import check_micro_batches
from labcore.files import check_writable
from labcore.kinds import kind_of
from labcore.runs import detached
from labcore.runs.config_paths import anchored
from labcore.runs.folder import CONFIG, write_config
from labcore.runs.images import data_fingerprint, datasets
from labcore.runs.models import find_teacher
from labcore.runs.train import run_training
from labcore.runs.watching import report_line, reporter_for
from labcore.train import checkpoint
from labcore.train.launch import command, environment, nodes_of
from labcore.train.log import Lines, Reporter, check_records, found_finished
from labcore.train.loop import TrainResult
from labcore.train.same_run import AnotherRun, changes, check_same_run


class TrainingStopped(KeyboardInterrupt):
    """The training was interrupted or stopped, and has saved. It is a KeyboardInterrupt, so it also ends the notebook's run."""


def train_streamed(
    config: BaseRunConfig,
    folder: str | Path,
    num_processes: int = 1,
    previews: bool = True,
    show: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train in a notebook's cell, and return the finished result. A running training is followed, a stopped one is resumed.

    Args:
        config: configuration of the run.
        folder: folder of the run.
        num_processes: number of devices of this machine; default 1. With several, the training runs in the background. With
            several machines (see `labcore.train.launch.nodes_of`), this call starts the processes of this one.
        previews: write grids of samples; default True.
        show: called with each line of the training. Default None: one output of the cell with a line, curves and samples
            (`labcore.runs.watching`).

    Raises:
        AnotherRun: `folder` has a run with other settings.
        TrainingStopped: the training was stopped, and has saved.
        RuntimeError: the training failed; the message has its last lines.
        ValueError: as `run_training`.
    """
    folder, config = Path(folder), anchored(config)
    reporter = reporter_for(folder) if show is None else Lines(show)
    try:
        return _train(config, folder, num_processes, previews, reporter)
    finally:
        reporter.close()


def _train(config: BaseRunConfig, folder: Path, num_processes: int, previews: bool, reporter: Reporter) -> TrainResult:
    nodes = nodes_of()
    if detached.running(folder):
        _check_same(config, folder, detached.read(folder)["about"])
        reporter.say(f"found the training that began in {folder} at {_clock(detached.read(folder)['began'])}")
        return _follow(config, folder, reporter, again=True)
    if nodes.rank:
        raise ValueError(
            f"this is node {nodes.rank} of {nodes.count}; a notebook trains on node 0, the others run  lab train"
        )
    _wait_for_others(folder, reporter)
    found = checkpoint.newest(folder)
    if found and found.step == config.train.steps and (folder / "model" / "config.json").exists():
        _about_here(config, folder, found)
        check_records(folder, found.step, found.state.get("log_records", 0))
        reporter.say(found_finished(folder, found.step))
        return _result(config, folder)
    if num_processes == 1 and nodes.count == 1:
        result = run_training(config, folder, previews, reporter)
        if not result.finished:
            raise TrainingStopped(_stopped_at(result.step, config))
        return result
    env = environment(num_processes)
    check_micro_batches(config.train.batch_size, config.train.accumulation, num_processes * nodes.count)
    about = _about_here(config, folder, found)
    check_writable(folder)
    words = ["train", "--quiet", "--config", str((folder / CONFIG).resolve()), "--out", str(folder.resolve())]
    words += [] if previews else ["--no-previews"]
    if nodes.count > 1:
        meet = f"--num-processes {num_processes} --nodes {nodes.count} --rendezvous {nodes.rendezvous} --node-rank"
        reporter.say(f"waiting for the other nodes; on each:  lab {' '.join(words)} {meet} 1..{nodes.count - 1}")
    write = partial(write_config, config, folder)
    process = detached.start(folder, command("labcore.cli", words, num_processes, nodes), env, about, write)
    if process is None:  # another notebook has started it
        return _train(config, folder, num_processes, previews, reporter)
    try:
        return _follow(config, folder, reporter)
    finally:
        process.poll()


def _follow(config: BaseRunConfig, folder: Path, reporter: Reporter, again: bool = False) -> TrainResult:
    """Report what the training writes until it ends, and judge how it ended."""
    output, show = detached.Output(folder, again), partial(report_line, reporter)
    try:
        status = output.stream(show)
    except KeyboardInterrupt:
        if detached.ask_to_stop(folder):
            reporter.say("interrupted: the training saves and stops; interrupt again to stop waiting for it")
        output.stream(show)
        raise TrainingStopped(_stopped_at(_step(folder), config)) from None
    if status == 0:
        return _result(config, folder)
    if status == 143:
        raise TrainingStopped(_stopped_at(_step(folder), config))
    what = "was killed" if status is None else f"ended with status {status}"
    raise RuntimeError(
        f"the training in {folder} {what}, {_step(folder)} of {config.train.steps} steps saved. Its last lines:\n\n"
        f"{detached.last_lines(folder)}\n\n"
        f"All of them are in {folder / detached.OUTPUT}. Run the cell again to resume from the last checkpoint"
    )


def _result(config: BaseRunConfig, folder: Path) -> TrainResult:
    """Return the result of a finished run, read from its folder."""
    import torch

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    ema = kind_of(config).model.from_pretrained(folder / "model").to(device).eval().requires_grad_(False)
    return TrainResult(_step(folder), _step(folder) == config.train.steps, folder, ema)


def _step(folder: Path) -> int:
    found = checkpoint.newest(folder)
    return found.step if found else 0


def _about(config: BaseRunConfig, data_fingerprint: str | None) -> dict[str, Any]:
    """Return the description of a run, as in its checkpoints; raises the errors of a run that cannot be trained."""
    identity = kind_of(config).identity(config, find_teacher(config))
    return {**config.model_dump(mode="json"), "data_fingerprint": data_fingerprint, **identity}


def _about_here(config: BaseRunConfig, folder: Path, found: checkpoint.Checkpoint | None) -> dict[str, Any]:
    """Return the description of a run in `folder`; AnotherRun if the checkpoint found there has other settings."""
    about = _about(config, data_fingerprint(folder, datasets(config)[0]))
    if found:
        check_same_run(found, about)
    return about


def _check_same(config: BaseRunConfig, folder: Path, about: dict[str, Any]) -> None:
    """Raise AnotherRun if the training that runs in `folder` has other settings."""
    if changed := changes(about, _about(config, about.get("data_fingerprint"))):
        raise AnotherRun(
            f"another training runs in {folder} ({'; '.join(changed)}). Give the same settings to follow it, "
            "or another folder (in a notebook: another run_dir) for a new training"
        )


def _stopped_at(step: int, config: BaseRunConfig) -> str:
    return f"stopped and saved at step {step} of {config.train.steps}; run the cell again to resume"


def _wait_for_others(folder: Path, reporter: Reporter, seconds: int | float = 120) -> None:
    """Wait for the processes of a killed training, which save before they end; OSError if another training runs there."""
    if not (folder / detached.RECORD).exists():
        return
    record = detached.read(folder)
    killed = record is None or record["status"] is None  # a damaged record has no status: the lock decides
    until = time.monotonic() + (seconds if killed else 0)
    warned = False
    while True:
        try:
            with checkpoint.lock_folder(folder):
                return
        except OSError:
            if time.monotonic() > until:
                raise
            if not warned:
                reporter.say(f"waiting for another process to leave {folder}")
            warned = True
            time.sleep(0.2)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
