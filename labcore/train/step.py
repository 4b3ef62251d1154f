"""One optimizer step: gradients of all micro-batches, clipping, update, averaged weights, and reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from labcore.config import TrainConfig
from labcore.rng import StepNoise
from labcore.train import shard
from labcore.train.hooks import Values
from labcore.train.inputs import Inputs
from labcore.train.optim import learning_rate
from labcore.train.state import TrainState
from labcore.train.strategies import Strategy
from labcore.types import Batch

if TYPE_CHECKING:
    from accelerate import Accelerator


class Step(NamedTuple):
    """An optimizer step that was done.

    batch: the last micro-batch of this process.
    sound: (), bool, on the device: whether loss and gradient were finite.
    block_norms: gradient norm of each block before clipping, every `log_every` steps; empty at other steps.
    """

    batch: Batch
    sound: Tensor
    block_norms: Values


class Gradients(NamedTuple):
    """Results of a step's micro-batches on this process: the last one, their mean loss (), and the reports of each."""

    batch: Batch
    loss: Tensor
    reports: list[dict[str, Tensor]]


class Steps:
    """Optimizer steps of one training; each changes `state`."""

    def __init__(
        self, config: TrainConfig, inputs: Inputs, accelerator: Accelerator, state: TrainState, strategy: Strategy
    ):
        self.config, self.inputs, self.accelerator = config, inputs, accelerator
        self.state, self.strategy = state, strategy
        # the scaler of fp16 leaves out steps with an infinite gradient: it is no fault there
        self.gradients_may_overflow = accelerator.mixed_precision == "fp16"

    def take(self, batches: Iterator) -> Step:
        """Take one optimizer step on the next micro-batches of `Inputs.read`; does not wait for the device between records."""
        config, state = self.config, self.state
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(state.step, config)
        state.optimizer.zero_grad(set_to_none=True)
        self.strategy.before_step()
        gradients = self._gradients(batches)
        norm, block_norms = self._clip()
        state.optimizer.step()
        state.step += 1
        state.ema.update(state.model, state.step)
        self._report(gradients, norm)
        return Step(gradients.batch, self._sound(gradients.loss, norm), block_norms)

    def _gradients(self, batches: Iterator) -> Gradients:
        """Add up the gradients of this process's micro-batches, so that the step's loss is their mean."""
        config, device = self.config, self.inputs.device
        noise = StepNoise(config.seed, self.state.step, config.batch_size, device)
        total = torch.zeros((), device=device)
        reports: list[dict[str, Tensor]] = []
        for number, share in enumerate(self.inputs.sampler.shares(), 1):
            rows = noise.share(share)
            batch = self.inputs.batch(next(batches), rows)
            with self.strategy.exchange(number == config.accumulation):
                loss, report = self.strategy.trained(batch, rows)
                self.accelerator.backward(loss / config.accumulation)
            total += loss.detach() / config.accumulation
            reports.append(report)
        return Gradients(batch, total, reports)

    def _clip(self) -> tuple[Tensor, Values]:
        """Clip the gradient to `clip_norm`; return its norm () before that, and those of the blocks if they are logged."""
        limit = float("inf") if self.config.clip_norm is None else self.config.clip_norm
        norm = shard.whole(self.accelerator.clip_grad_norm_(self.strategy.trained.parameters(), limit))
        logged = (self.state.step + 1) % self.config.log_every == 0
        return norm, self._block_norms(norm, limit) if logged else {}

    def _block_norms(self, norm: Tensor, limit: float) -> Values:
        """Return the gradient norm of each block at this step, before clipping (its factor is divided out)."""
        factor = (norm / limit).clamp_min(1)
        norms = [
            torch.nn.utils.get_total_norm([p.grad for p in block.parameters() if p.grad is not None]) * factor
            for block in getattr(self.state.model, "blocks", ())
        ]
        return {f"grad_norm/block_{i}": float(shard.whole(n)) for i, n in enumerate(norms, 1)}

    def _report(self, gradients: Gradients, norm: Tensor) -> None:
        """Add the step to the means of the next record."""
        means, norm = self.state.means, norm.detach()
        means.add_parts(gradients.reports)
        means.add("loss", gradients.loss)
        means.add("grad_norm", norm.nan_to_num() if self.gradients_may_overflow else norm)
        means.steps += 1

    def _sound(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Return whether the step's numbers were finite, (), on the device."""
        return loss.isfinite() if self.gradients_may_overflow else loss.isfinite() & norm.isfinite()
