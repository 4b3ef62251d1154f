"""Means, since the last line of the log, of the reports of steps; for names that begin with "max_", the largest value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

PEAK = "max_"
"""How names of largest values begin."""


class RunningMeans:
    """Sums of this process, and their means over all processes when a line is written.

    A checkpoint holds the sums of every process. If they were added earlier, they would differ in the last bit from those
    of an uninterrupted run.
    """

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, name: str, value: Tensor) -> None:
        before = self.sums.get(name)
        value = value.detach().float()
        if before is None:
            self.sums[name] = value.clone()
        else:
            self.sums[name] = torch.maximum(before, value) if name.startswith(PEAK) else before + value

    def add_parts(self, parts: list[dict[str, Tensor]]) -> None:
        """Add the reports of a step's micro-batches: their mean, or the largest value."""
        for name, value in ((name, value) for logs in parts for name, value in logs.items()):
            self.add(name, value if name.startswith(PEAK) else value / len(parts))

    def take(self) -> dict[str, float]:
        """Return the means, or largest values, over steps and processes, and start counting again."""
        names = sorted(self.sums)
        peaks = [name for name in names if name.startswith(PEAK)]
        summed = [name for name in names if name not in peaks]
        values = self.accelerator.reduce(torch.stack([self.sums[name] for name in summed]) / self.steps, "mean")
        if peaks:
            mine = torch.stack([self.sums[name] for name in peaks])
            values = torch.cat([values, self.accelerator.gather(mine[None]).amax(0)])
        self.sums, self.steps = {}, 0
        return dict(zip([*summed, *peaks], values.tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """Return the sums of every process, for a checkpoint. Every process must call it."""
        return self._state(self.accelerator.gather)

    def own_state(self) -> dict[str, Any]:
        """Return the sums of this process alone, for a checkpoint if the others may be gone."""
        return self._state(lambda sums: sums)

    def _state(self, gather: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        return {"running": {name: gather(self.sums[name][None]) for name in sorted(self.sums)}, "averaged": self.steps}

    def load(self, state: dict[str, Any]) -> None:
        """Load this process's sums; if the number of processes changed, the mean of all sums, or the largest value."""
        self.sums = {name: self._mine(name, sums) for name, sums in state["running"].items()}
        self.steps = state["averaged"]

    def _mine(self, name: str, sums: Tensor) -> Tensor:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        sums = sums.reshape(-1)
        if len(sums) == world:
            return sums[rank]
        return sums.amax() if name.startswith(PEAK) else sums.mean()
