"""Two ways to share a training between processes: a copy of everything each (plain), or a shard of everything each (sharded).

Only this module contains the differences: how modules are wrapped, when gradients are exchanged, how a model is gathered
for an evaluation, and how a checkpoint is gathered, also after an error.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import nn

from labcore.config import TrainConfig
from labcore.train import shard
from labcore.train.optim import make_optimizer
from labcore.train.state import Snapshot, TrainState

if TYPE_CHECKING:
    from accelerate import Accelerator


@runtime_checkable
class Strategy(Protocol):
    """How processes share a training. `before_step`, `whole` and `snapshot` are called by every process at the same time."""

    trained: nn.Module
    """Model and objective, wrapped: its forward pass gives loss and reports."""

    def before_step(self) -> None:
        """Make buffers equal in all processes if steps change them by other means than gradients."""

    def exchange(self, last: bool) -> contextlib.AbstractContextManager:
        """Surround a micro-batch: processes exchange gradients only with the last one of a step."""

    def whole(self, model: nn.Module) -> nn.Module | None:
        """Return `model` with all its weights on the first process; None on the others."""

    def snapshot(self) -> Snapshot | None:
        """Return the state to save on the first process; None on the others."""

    def snapshot_alone(self) -> Snapshot | None:
        """Return `snapshot` without the other processes, which may be gone; None if that is impossible."""


def strategy_for(accelerator: Accelerator, state: TrainState, config: TrainConfig) -> Strategy:
    """Return the strategy of a configuration. It takes over the modules and the optimizer of `state`."""
    if config.parallel == "fsdp2" and accelerator.num_processes > 1:
        return Sharded(accelerator, state, config)
    return Plain(accelerator, state)


class Plain:
    """Every process holds everything: one process alone, or several by DDP."""

    def __init__(self, accelerator: Accelerator, state: TrainState):
        self.accelerator, self.state = accelerator, state
        self.trained, state.optimizer = accelerator.prepare(state.trained, state.optimizer)

    def before_step(self) -> None:
        """Do nothing: DDP broadcasts buffers itself."""

    def exchange(self, last: bool) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self.trained)

    def whole(self, model: nn.Module) -> nn.Module | None:
        return model if self.accelerator.is_main_process else None

    def snapshot(self) -> Snapshot | None:
        return self._snapshot(self.state.means.state())

    def snapshot_alone(self) -> Snapshot | None:
        return self._snapshot(self.state.means.own_state())

    def _snapshot(self, means: dict[str, Any]) -> Snapshot | None:
        if not self.accelerator.is_main_process:
            return None
        state = self.state
        optimizer, objective = state.optimizer.state_dict(), state.objective.state_dict()
        return Snapshot(dict(state.models()), state.model.state_dict(), optimizer, objective, means)


class Sharded:
    """Every process holds its shard of weights, gradients, optimizer and average (FSDP2); the first one also a whole model."""

    def __init__(self, accelerator: Accelerator, state: TrainState, config: TrainConfig):
        self.accelerator, self.state = accelerator, state
        self.looked_at = copy.deepcopy(state.ema.model) if accelerator.is_main_process else None
        self.trained = accelerator.prepare_model(state.trained, evaluation_mode=True)  # only autocast, no DDP
        whole = state.optimizer.state_dict()
        shard.shard_(self.trained, state.model, state.ema.model, accelerator.device.type)
        own = make_optimizer(self.trained.parameters(), config)
        own.load_state_dict(shard.shared_out(whole, list(self.trained.parameters())))
        state.optimizer = accelerator.prepare_optimizer(own)

    def before_step(self) -> None:
        """Broadcast the model's buffers, as DDP does."""
        for buffer in self.state.model.buffers():
            torch.distributed.broadcast(buffer, 0)

    def exchange(self, last: bool) -> contextlib.AbstractContextManager:
        self.trained.set_requires_gradient_sync(last)
        return contextlib.nullcontext()

    def whole(self, model: nn.Module) -> nn.Module | None:
        weights = self._gathered(model.state_dict())
        return shard.Whole(self.looked_at, weights).fill() if self.accelerator.is_main_process else None

    def snapshot(self) -> Snapshot | None:
        state = self.state
        means = state.means.state()
        weights = {name: self._gathered(model.state_dict()) for name, model in state.models().items()}
        optimizer = self._gathered(state.optimizer.state_dict())
        objective = self._gathered(state.objective.state_dict())
        if not self.accelerator.is_main_process:
            return None
        models = {name: shard.Whole(self.looked_at, tensors) for name, tensors in weights.items()}
        return Snapshot(models, weights["model"], optimizer, objective, means)

    def snapshot_alone(self) -> Snapshot | None:
        """Return None: the other processes hold parts of the state."""
        return None

    def _gathered(self, state: dict[str, Any]) -> dict[str, Any]:
        return shard.whole_state(state, self.accelerator.is_main_process)
