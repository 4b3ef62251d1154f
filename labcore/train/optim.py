"""Optimizer, learning rate and weight average: functions of the step without further state."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from labcore.config import TrainConfig
from labcore.train.shard import own


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate: linear warm-up from min_lr to lr, then a cosine to min_lr (ml-tarflow's, by steps)."""
    if step < config.warmup_steps:
        return config.min_lr + (config.lr - config.min_lr) * step / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def make_optimizer(parameters, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW on all parameters, fused if the device supports it."""
    return torch.optim.AdamW(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


class Ema:
    """Exponential moving average of a model's weights, in eval mode, with the decay ramped as (1 + step) / (10 + step)."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model` after optimizer step number `step` (from 1); buffers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [own(p) for p in self.model.parameters()]
        weights = [own(p) for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for copy_of_buffer, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copy_of_buffer.copy_(buffer)
