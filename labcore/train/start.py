"""Start of a training: processes, checkpoint, number format, state and strategy, in this order.

The order matters. Processes agree on the checkpoint before any of them reads it; accelerate has to know the number format
before it creates anything; the averaged weights are a copy from before layers are changed; and the state is restored and
compiled before processes shard it.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from labcore.config import TrainConfig
from labcore.data.loaders import BalancedStepSampler, StepSampler
from labcore.data.protocol import Dataset
from labcore.train import checkpoint, environment, precision
from labcore.train.hooks import Hooks
from labcore.train.inputs import Inputs, Prepare
from labcore.train.means import RunningMeans
from labcore.train.optim import Ema, make_optimizer
from labcore.train.recompute import recompute_layers, transformer_layers
from labcore.train.same_run import check_same_run
from labcore.train.saving import Saving
from labcore.train.state import Trained, TrainState
from labcore.train.step import Steps
from labcore.train.strategies import Strategy, strategy_for
from labcore.train.trial_step import TrialStep

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

PATIENCE = timedelta(hours=1)
"""How long processes wait while one works alone: previews, evaluation, a slow disk. NCCL's 10 minutes are too short."""


class Task(NamedTuple):
    """The training task: model, data and settings, which are the parameters of `labcore.train.loop.train`."""

    model: nn.Module
    objective: nn.Module
    dataset: Dataset
    config: TrainConfig
    folder: Path
    prepare: Prepare
    describe: dict[str, Any]
    hooks: Hooks

    @property
    def run(self) -> dict[str, Any]:
        """The configuration that identifies the run in a checkpoint."""
        return {**self.describe, "train": self.config.model_dump(mode="json")}


class Started(NamedTuple):
    """A training that is ready for its first step.

    task: model, data and settings.
    inputs: the batches of this process.
    accelerator: accelerate's, of this process.
    precision: the number format, "fp32", "bf16" or "fp16".
    compiled: whether any layer is compiled.
    records: records that the log had when the checkpoint was saved; None for a new run and for older checkpoints.
    state, strategy, steps, saving: the parts of the training.
    """

    task: Task
    inputs: Inputs
    accelerator: Accelerator
    precision: str
    compiled: bool
    records: int | None
    state: TrainState
    strategy: Strategy
    steps: Steps
    saving: Saving


def start(task: Task) -> Started:
    """Create everything that training needs, and restore the state in the folder. Raises as `labcore.train.loop.train`."""
    from accelerate import PartialState

    config = task.config
    world = PartialState(cpu=environment.on_cpu(), timeout=PATIENCE)  # without `cpu`, processes on a CPU stay alone
    found = _checkpoint(task, world)
    inputs = _inputs(task, world, found.step if found else 0)
    task.model.to(inputs.device)
    task.objective.to(inputs.device)
    trial = TrialStep(Trained(task.model, task.objective), inputs, config)
    chosen = _precision(trial, world, found)
    accelerator = _accelerator(chosen)
    state = _state(trial.trained, config, accelerator)
    if found:
        state.restore(found, inputs.device)
    try_it = partial(trial.take, accelerator.autocast)
    compiled = config.compile and precision.try_compile(transformer_layers(task.model), try_it)
    strategy = strategy_for(accelerator, state, config)
    steps = Steps(config, inputs, accelerator, state, strategy)
    saving = Saving(task.folder, {"precision": chosen, "run": task.run}, config.keep, state, strategy)
    records = found.state.get("log_records") if found else None
    return Started(task, inputs, accelerator, chosen, compiled, records, state, strategy, steps, saving)


def _checkpoint(task: Task, world: PartialState) -> checkpoint.Checkpoint | None:
    """Return the checkpoint to resume from, the same for every process; None for a new run."""
    found = checkpoint.latest(task.folder)
    if found:
        check_same_run(found, task.run)
    if world.num_processes > 1:
        _check_same_step(found.step if found else 0, task.folder)
    return found


def _check_same_step(step: int, folder: Path) -> None:
    """Raise ValueError unless processes on all machines see the same folder; otherwise some would start a new run."""
    from accelerate.utils import gather_object

    steps = gather_object([step])
    if len(set(steps)) > 1:
        raise ValueError(
            f"the processes find checkpoints of steps {steps} in {folder}; give a folder that all nodes share"
        )


def _inputs(task: Task, world: PartialState, step: int) -> Inputs:
    """Return the batches of this process from `step` on."""
    config = task.config
    device = torch.device("cpu") if world.device.type == "cpu" else world.device  # torch.load knows no "cpu:0"
    share = (config.accumulation, world.process_index, world.num_processes)
    settings = (config.batch_size, config.seed, step, config.steps, *share)
    if config.sampling == "balanced":
        sampler = BalancedStepSampler(task.dataset.labels, *settings)
    else:
        sampler = StepSampler(len(task.dataset), *settings)
    labelled = getattr(task.model.config, "num_classes", 0) > 0
    return Inputs(task.dataset, sampler, task.prepare, device, labelled)


def _precision(trial: TrialStep, world: PartialState, found: checkpoint.Checkpoint | None) -> str:
    """Return the number format: the checkpoint's if the configuration leaves it open, else the choice of the first process."""
    from accelerate.utils import broadcast_object_list

    chosen = [found.state["precision"] if found and trial.config.precision == "auto" else None]
    if world.is_main_process and chosen[0] is None:
        chosen[0] = trial.fastest_precision()
    broadcast_object_list(chosen)
    return chosen[0]


def _accelerator(chosen: str) -> Accelerator:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # it is a singleton: a second run in one process may have another precision
    return Accelerator(mixed_precision="no" if chosen == "fp32" else chosen)


def _state(trained: Trained, config: TrainConfig, accelerator: Accelerator) -> TrainState:
    """Return the state of a new training, whole in every process."""
    ema = Ema(trained.model, config.ema_decay)  # a copy, whose layers keep their activations
    if config.recompute:
        recompute_layers(trained.model)
    optimizer = make_optimizer(trained.parameters(), config)
    return TrainState(trained, ema, optimizer, RunningMeans(accelerator), accelerator.scaler)
