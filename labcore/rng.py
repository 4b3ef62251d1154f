"""Random numbers that depend on names and not on earlier draws.

Every random number in the lab comes from a generator that is seeded by its purpose: ``generator(seed, "order", epoch)``. No
number depends on how many were drawn before. So a run that was resumed, split over processes, or extended by another random
quantity gets exactly the numbers of an undisturbed run. A checkpoint therefore needs the seed and the step, and no generator
state.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def seed_of(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the purpose `names`, independent of all other names (SHA-256 of the JSON-like path)."""
    path = "/".join(str(part) for part in (int(seed), *names))
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator on `device` for the purpose `names`."""
    return torch.Generator(device).manual_seed(seed_of(seed, *names))


def normal_per_item(seed: int, name: str, indices: range, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
    """Return standard normal noise (b, *shape), float32 on the CPU, where item i depends only on (seed, name, i).

    It does not depend on batch size, device or number of processes.
    """
    if not indices:
        return torch.zeros(0, *shape)
    return torch.stack([torch.randn(shape, generator=generator(seed, name, i)) for i in indices])


class StepNoise:
    """The random numbers of one optimizer step, which do not depend on the split over micro-batches and processes.

    Each named quantity is drawn once for the `total` images of the step, on `device`, from (seed, step, name), and
    `rows` takes this micro-batch's share. So 1 process with a batch of 64 and 2 processes with 32 each train on the same
    noise, and a further quantity does not change the existing ones.
    """

    def __init__(self, seed: int, step: int, total: int, device: torch.device | str, rows: slice = slice(None)):
        self.seed, self.step, self.total, self.device, self.rows = seed, step, total, torch.device(device), rows

    def share(self, rows: slice) -> StepNoise:
        """Return the same numbers for the images `rows` of the step."""
        return StepNoise(self.seed, self.step, self.total, self.device, rows)

    def on(self, device: torch.device | str) -> StepNoise:
        """Return the same generator on another device; its numbers differ."""
        return StepNoise(self.seed, self.step, self.total, device, self.rows)

    def _generator(self, name: str) -> torch.Generator:
        return generator(self.seed, "step", self.step, name, device=self.device)

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers, (rows, *shape), float32."""
        full = torch.randn((self.total, *shape), generator=self._generator(name), device=self.device)
        return full[self.rows]

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Return uniform numbers on [0, 1), (rows, *shape), float32."""
        full = torch.rand((self.total, *shape), generator=self._generator(name), device=self.device)
        return full[self.rows]
