"""The training loop: one function that counts steps, for every model and objective of the lab.

To resume, run the same command again. The loop takes the newest complete checkpoint and continues with bit-identical
weights, batches, noise and log, except for the order in which a GPU's kernels add. SIGTERM and Ctrl-C finish the step,
save and return. A loss that is not finite stops the run and keeps the last good checkpoint. Previews and evaluations use
the averaged weights in eval mode.

The parts: `start` (everything before the first step), `inputs` (batches), `step` (one optimizer step), `state` (what is
saved and restored), `strategies` (how processes share it), `saving` (checkpoints), `hooks` (functions of the caller).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labcore import tf32
from labcore.config import TrainConfig
from labcore.data.protocol import Dataset
from labcore.processes import process_share
from labcore.train import checkpoint, environment, faults, precision
from labcore.train.hooks import Hooks, Values
from labcore.train.inputs import Prepare
from labcore.train.log import RunLog, SilentLog, check_records
from labcore.train.optim import learning_rate
from labcore.train.signals import StopSignals
from labcore.train.start import Started, Task, start
from labcore.train.state import Trained
from labcore.train.step import Step

__all__ = ["Hooks", "Prepare", "TrainResult", "Trained", "Values", "train"]


class TrainResult(NamedTuple):
    """State of a run: steps done, whether the run is finished, its folder, and its averaged weights."""

    step: int
    finished: bool
    folder: Path
    ema: nn.Module


def train(
    model: nn.Module,
    objective: nn.Module,
    dataset: Dataset,
    config: TrainConfig,
    folder: str | Path,
    prepare: Prepare | None = None,
    describe: dict[str, Any] | None = None,
    hooks: Hooks | None = None,
) -> TrainResult:
    """Train `model` on `objective` until config.steps. Resumes the run in `folder`.

    Args:
        model: a model with save_pretrained.
        objective: maps model and batch to a loss; see `labcore.train.objectives`.
        dataset: the training images.
        config: the settings of the training.
        folder: the run's folder.
        prepare: makes images of items; None (default) for `dataset.to_model_input`, without mirroring.
        describe: the run's configuration, saved with every checkpoint.
        hooks: functions that the run calls; default none.

    Raises:
        ValueError: the folder holds a run with another configuration, or the device has too little memory.
        FloatingPointError: a loss, gradient or weight is not finite.
    """
    with (
        environment.configuration_alone(),
        faults.enough_memory(config, process_share()[1]),
        tf32.use(config.tf32),
        checkpoint.lock_folder(Path(folder)),
        StopSignals() as stop,
    ):
        prepare = prepare or dataset.to_model_input
        task = Task(model, objective, dataset, config, Path(folder), prepare, describe or {}, hooks or Hooks())
        return _Loop(start(task), stop).run()


class _Loop:
    """Takes the steps of a started training; between steps it records, evaluates and saves."""

    def __init__(self, started: Started, stop: StopSignals):
        self.started, self.stop = started, stop
        self.task, self.config, self.state = started.task, started.task.config, started.state
        self.accelerator, self.device = started.accelerator, started.inputs.device
        self.bad_step = torch.full(
            (), torch.iinfo(torch.int64).max, device=self.device
        )  # the first that was not finite
        self.log = self._open_log()

    def _open_log(self) -> RunLog | SilentLog:
        task, state, started = self.task, self.state, self.started
        if not self.accelerator.is_main_process:
            return SilentLog()
        if started.records is not None:
            check_records(task.folder, state.step, started.records)
        log = RunLog(task.folder, state.step, self.config.steps, task.hooks.reporter, task.run)
        if state.step < self.config.steps:
            log.say(precision.describe(self.config, started.precision, self.device))
        return log

    def run(self) -> TrainResult:
        """Take steps until the end, a signal or an error; after an error outside the model, finished steps are saved."""
        saving = self.started.saving
        try:
            self._steps()
        except FloatingPointError:
            raise
        except Exception:
            saving.rescue()
            raise
        finally:
            self.log.close()
        ema = self.state.ema.model
        whole = self.started.strategy.whole(ema)
        finished = saving.saved == self.config.steps
        # a process that has only a part of the averaged weights returns that part
        return TrainResult(saving.saved, finished, self.task.folder, ema if whole is None else whole)

    def _steps(self) -> None:
        batches = self.started.inputs.read(self.state.objective, self.config.num_workers)
        self.started.strategy.trained.train()
        stopping = False
        while self.state.step < self.config.steps and not stopping:
            step = self.started.steps.take(batches)
            self.bad_step = torch.where(step.sound, self.bad_step, self.bad_step.clamp_max(self.state.step))
            stopping = self._everyone_stops()
            self.log.advance(self.state.step)
            self._after(step, stopping)

    def _after(self, step: Step, stopping: bool) -> None:
        """Record, evaluate and save if this step requires it."""
        config, done = self.config, self.state.step
        last = done == config.steps
        record = last or done % config.log_every == 0
        look = last or done % config.eval_every == 0
        save = last or stopping or done % config.save_every == 0
        if record or look or save:
            self._check_finite()
        values = self._record(step) if record else {}
        try:
            if look:
                values |= self._look()
        finally:
            if values:
                self.log.write(done, values)
        if save:
            self.started.saving.save()
        if look or save:
            self.accelerator.wait_for_everyone()

    def _record(self, step: Step) -> Values:
        """Return the values of a log record: means since the last one, and the diagnosis of the current weights."""
        values = self.state.means.take() | step.block_norms | {"lr": learning_rate(self.state.step - 1, self.config)}
        diagnose = self.task.hooks.diagnose
        model = self.started.strategy.whole(self.state.model) if diagnose else None
        if model is not None:
            x, y = step.batch.x[:32], _first(step.batch.y, 32)
            with precision.uncompiled(self.started.compiled):
                values |= diagnose(model, x, y)
        return values

    def _look(self) -> Values:
        """Evaluate and preview the averaged weights, on the first process."""
        ema = self.started.strategy.whole(self.state.ema.model)
        if ema is None:
            return {}
        with precision.uncompiled(self.started.compiled):
            return self.task.hooks.look(ema, self.state.step)

    def _everyone_stops(self) -> bool:
        """Return whether a signal has come to any process.

        Several processes agree on it after every step; on CUDA, where that would wait for the device, after every tenth
        step.
        """
        if self.accelerator.num_processes == 1:
            return self.stop.came
        if self.device.type == "cuda" and self.state.step % 10:
            return False
        flag = torch.tensor(float(self.stop.came), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _check_finite(self) -> None:
        """Raise FloatingPointError if any step so far was not finite on any process."""
        bad = int(self.accelerator.gather(self.bad_step[None]).min())
        if bad <= self.state.step:
            raise faults.not_finite(bad, self.task.folder)


def _first(values: Tensor | None, count: int) -> Tensor | None:
    return None if values is None else values[:count]
