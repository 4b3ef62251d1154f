"""A trial step before training: it times number formats, and checks whether torch.compile works. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from torch import Tensor

from labcore.config import TrainConfig
from labcore.rng import StepNoise
from labcore.train import precision
from labcore.train.inputs import Inputs
from labcore.train.state import Trained


class TrialStep(NamedTuple):
    """A step on one micro-batch of the first images. trained: model and objective, not wrapped yet."""

    trained: Trained
    inputs: Inputs
    config: TrainConfig

    def fastest_precision(self) -> str:
        """Return the number format of the configuration, or the faster one for "auto": see `precision.resolve`."""
        step = precision.autocast_step(self.trained.model, self.loss)
        return precision.resolve(self.config.precision, self.inputs.device, step)

    def take(self, autocast: Callable[[], AbstractContextManager]) -> None:
        """Run one forward and backward pass as in training, without changing anything."""
        with autocast():
            loss = self.loss()
        loss.backward()
        self.trained.zero_grad(set_to_none=True)

    def loss(self) -> Tensor:
        """Return the objective, (); in eval mode it changes no state."""
        noise = StepNoise(self.config.seed, 0, self.inputs.micro_batch, self.inputs.device)
        batch = self.inputs.first(noise)
        model, objective = self.trained.model, self.trained.objective
        objective.eval()
        try:
            return objective(model, batch, noise)[0]
        finally:
            objective.train()
