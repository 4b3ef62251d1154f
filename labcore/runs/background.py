"""Training for a notebook's cell: in place with one process, in the background and streamed with several.

The training of several processes does not belong to the kernel. Restart it and run the cell again: it finds the training
and goes on showing it. Interrupt the cell: the training saves and stops. Whatever was killed: the cell, run again, goes on
from the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from labcore.config import BaseRunConfig
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
    """The training was interrupted or told to stop, and has saved. An interrupt, so that no later cell takes it for done."""


def train_streamed(
    config: BaseRunConfig,
    folder: str | Path,
    num_processes: int = 1,
    previews: bool = True,
    show: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train what `config` says in `folder` on `num_processes` devices, or find it, or go on with it; the finished result.

    show takes each line that the training writes; None shows the training as `labcore.runs.watching` says. With several
    machines (see `labcore.train.launch.nodes_of`) this starts the processes of this one. Raises as `run_training`,
    AnotherRun where `folder` holds a run with other settings, TrainingStopped where the training was
    stopped and saved, and RuntimeError with its last lines where it failed.
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
        reporter.say(f"found the training that runs in {folder} since {_clock(detached.read(folder)['began'])}")
        return _follow(config, folder, reporter, again=True)
    if nodes.rank:
        raise ValueError(
            f"this is node {nodes.rank} of {nodes.count}; a notebook trains on node 0, the others run  lab train"
        )
    _wait_for_others(folder, reporter)
    found = _newest(folder)
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
    share = num_processes * nodes.count * config.train.accumulation
    if config.train.batch_size % share:
        raise ValueError(
            f"batch_size {config.train.batch_size} does not divide into {config.train.accumulation} micro-batches on "
            f"{num_processes * nodes.count} processes; give a multiple of {share}"
        )
    about = _about_here(config, folder, found)
    check_writable(folder)
    words = ["train", "--quiet", "--config", str((folder / CONFIG).resolve()), "--out", str(folder.resolve())]
    words += [] if previews else ["--no-previews"]
    if nodes.count > 1:
        meet = f"--num-processes {num_processes} --nodes {nodes.count} --rendezvous {nodes.rendezvous} --node-rank"
        reporter.say(f"waiting for the other nodes; on each:  lab {' '.join(words)} {meet} 1..{nodes.count - 1}")
    write = partial(write_config, config, folder)
    process = detached.start(folder, command("labcore.cli", words, num_processes, nodes), env, about, write)
    if process is None:  # another notebook was quicker
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
            reporter.say("interrupted: the training saves and stops; a second interrupt leaves it to itself")
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
        f"All of them are in {folder / detached.OUTPUT}. Run the cell again to go on from the last checkpoint"
    )


def _result(config: BaseRunConfig, folder: Path) -> TrainResult:
    """What a run returns, read from its folder when it is finished."""
    import torch

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    ema = kind_of(config).model.from_pretrained(folder / "model").to(device).eval().requires_grad_(False)
    return TrainResult(_step(folder), _step(folder) == config.train.steps, folder, ema)


def _newest(folder: Path) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint, by its state.json; the training itself looks closer."""
    for path in checkpoint.folders(folder):
        try:
            return checkpoint.Checkpoint(path, checkpoint.read_state(path))
        except ValueError:
            continue
    return None


def _step(folder: Path) -> int:
    found = _newest(folder)
    return found.step if found else 0


def _about(config: BaseRunConfig, data_fingerprint: str | None) -> dict[str, Any]:
    """What a run is of, as its checkpoints say it; raises for what cannot be trained."""
    identity = kind_of(config).identity(config, find_teacher(config))
    return {**config.model_dump(mode="json"), "data_fingerprint": data_fingerprint, **identity}


def _about_here(config: BaseRunConfig, folder: Path, found: checkpoint.Checkpoint | None) -> dict[str, Any]:
    """What a run in `folder` is of; AnotherRun where the checkpoint found there has other settings."""
    about = _about(config, data_fingerprint(folder, datasets(config)[0]))
    if found:
        check_same_run(found, about)
    return about


def _check_same(config: BaseRunConfig, folder: Path, about: dict[str, Any]) -> None:
    """AnotherRun where the training that runs in `folder` has other settings."""
    if changed := changes(about, _about(config, about.get("data_fingerprint"))):
        raise AnotherRun(
            f"another training runs in {folder} ({'; '.join(changed)}). Give the same settings to follow it, "
            "or another folder (in a notebook: another run_dir) to start anew"
        )


def _stopped_at(step: int, config: BaseRunConfig) -> str:
    return f"stopped and saved at step {step} of {config.train.steps}; run the cell again to go on"


def _wait_for_others(folder: Path, reporter: Reporter, seconds: int | float = 120) -> None:
    """Processes of a training that was killed save before they leave; OSError where someone else trains there."""
    if not (folder / detached.RECORD).exists():
        return
    record = detached.read(folder)
    killed = record is None or record["status"] is None  # a damaged record says nothing: the lock decides
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
