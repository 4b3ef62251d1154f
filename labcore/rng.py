"""Randomness as a function of names, not of history.

Every random number in the lab is drawn from a generator that is seeded by what it is for: ``generator(seed, "order", epoch)``.
Nothing depends on how many numbers were drawn before, so a run that was killed and resumed, split over processes, or
extended with one more random ingredient sees exactly the numbers that an undisturbed run sees. A checkpoint therefore
needs the seed and the step, and no generator state.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def seed_of(seed: int, *names: str | int) -> int:
    """A 63-bit seed for what `names` says, independent of all other names (SHA-256 of the JSON-like path)."""
    path = "/".join(str(part) for part in (int(seed), *names))
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for what `names` says."""
    return torch.Generator(device).manual_seed(seed_of(seed, *names))


def normal_per_item(seed: int, name: str, indices: range, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
    """Standard normal noise (b, *shape), float32 on the CPU, where item i depends on (seed, name, i) alone.

    Batch size, device and number of processes change nothing.
    """
    if not indices:
        return torch.zeros(0, *shape)
    return torch.stack([torch.randn(shape, generator=generator(seed, name, i)) for i in indices])


class StepNoise:
    """The random numbers of one optimizer step, split over micro-batches and processes without changing any of them.

    Each named quantity is drawn once for the `total` images of the step, on `device`, from (seed, step, name), and
    `rows` takes this micro-batch's share. So 1 process with a batch of 64 and 2 processes with 32 each train on the same
    noise, and adding a quantity leaves the others as they were.
    """

    def __init__(self, seed: int, step: int, total: int, device: torch.device | str, rows: slice = slice(None)):
        self.seed, self.step, self.total, self.device, self.rows = seed, step, total, torch.device(device), rows

    def share(self, rows: slice) -> StepNoise:
        """The same numbers, for the images `rows` of the step."""
        return StepNoise(self.seed, self.step, self.total, self.device, rows)

    def on(self, device: torch.device | str) -> StepNoise:
        """The numbers of another device, which are others."""
        return StepNoise(self.seed, self.step, self.total, device, self.rows)

    def _generator(self, name: str) -> torch.Generator:
        return generator(self.seed, "step", self.step, name, device=self.device)

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal, (rows, *shape), float32."""
        full = torch.randn((self.total, *shape), generator=self._generator(name), device=self.device)
        return full[self.rows]

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform on [0, 1), (rows, *shape), float32."""
        full = torch.rand((self.total, *shape), generator=self._generator(name), device=self.device)
        return full[self.rows]
