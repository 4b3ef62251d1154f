"""State of a training, which its steps change, and which a checkpoint saves and restores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labcore.nn.pretrained import WEIGHTS, load_strictly, read_tensors
from labcore.rng import StepNoise
from labcore.train import checkpoint
from labcore.train.means import RunningMeans
from labcore.train.optim import Ema
from labcore.types import Batch


class Trained(nn.Module):
    """Model and objective as one module, so that data parallelism sees one forward pass with all trained parameters."""

    def __init__(self, model: nn.Module, objective: nn.Module):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, noise: StepNoise) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.model, batch, noise)


@dataclass
class TrainState:
    """The state that the steps of a training change, in one process.

    trained: model and objective, not wrapped for several processes.
    ema: the averaged weights.
    optimizer: optimizer of the parameters of `trained`; the strategy of the processes replaces it by its own.
    means: means of the reports of all steps since the last record.
    scaler: the gradient scaler of fp16; None in other number formats.
    step: optimizer steps that are done.
    """

    trained: Trained
    ema: Ema
    optimizer: torch.optim.Optimizer
    means: RunningMeans
    scaler: torch.amp.GradScaler | None
    step: int = 0

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self.trained.model

    @property
    def objective(self) -> nn.Module:
        """The objective, with its own trained parameters."""
        return self.trained.objective

    def models(self) -> dict[str, nn.Module]:
        """Return the models that a checkpoint holds, by the names of their sub-folders."""
        return {"model": self.model, "ema": self.ema.model}

    def restore(self, found: checkpoint.Checkpoint, device: torch.device) -> None:
        """Restore the state of a checkpoint. Every process then holds everything, not only its shard."""
        for name, model in self.models().items():
            load_strictly(model, read_tensors(found.path / name / WEIGHTS), found.path / name)
        training = checkpoint.read_training(found, device)
        self.optimizer.load_state_dict(training["optimizer"])
        self.objective.load_state_dict(training["objective"])
        if training["scaler"] and self.scaler:
            self.scaler.load_state_dict(training["scaler"])
        self.means.load(training)
        self.step = found.step


class Snapshot(NamedTuple):
    """A training's state as a checkpoint holds it: whole tensors, also if processes hold only shards.

    models: sub-folder name -> a model with save_pretrained.
    weights: the state dict of "model".
    optimizer, objective: their state dicts.
    means: the state of `RunningMeans`.
    """

    models: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    objective: dict[str, Any]
    means: dict[str, Any]
