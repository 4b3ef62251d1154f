"""Means, since the last line of the log, of what the steps report."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Sums of this process, and their means over all processes when a line is written.

    A checkpoint holds the sums of every process: added up earlier, they would differ in the last bit from those of a
    run that nothing stopped.
    """

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, name: str, value: Tensor) -> None:
        before = self.sums.get(name)
        value = value.detach().float()
        self.sums[name] = value.clone() if before is None else before + value

    def take(self) -> dict[str, float]:
        """The means over steps and processes; counting starts again."""
        names = sorted(self.sums)
        means = torch.stack([self.sums[name] for name in names]) / self.steps
        means = self.accelerator.reduce(means, "mean").tolist()
        self.sums, self.steps = {}, 0
        return dict(zip(names, means, strict=True))

    def state(self, alone: bool = False) -> dict[str, Any]:
        """For a checkpoint; alone: this process's sums only, where the others may be gone."""
        gather = (lambda sums: sums) if alone else self.accelerator.gather
        return {"running": {name: gather(self.sums[name][None]) for name in sorted(self.sums)}, "averaged": self.steps}

    def load(self, state: dict[str, Any]) -> None:
        """This process's own sums; with more or fewer processes than were saved, the mean of theirs."""
        self.sums, self.steps = {name: self._mine(sums) for name, sums in state["running"].items()}, state["averaged"]

    def _mine(self, sums: Tensor) -> Tensor:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        sums = sums.reshape(-1)
        return sums[rank] if len(sums) == world else sums.mean()
