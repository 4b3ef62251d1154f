"""Small training runs on the device: what the tests of training share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from conftest import perturbed
from torch import Tensor, nn

from gpu.device import CUDA, FASHION, MID
from labcore.config import RunConfig, TrainConfig
from labcore.data.images import ImageData
from labcore.data.transforms import to_model_input
from labcore.nn.pretrained import read_tensors
from labcore.train import checkpoint
from labcore.train.log import read_log
from labcore.train.loop import train
from labcore.train.objectives import Likelihood

TRAIN = dict(
    batch_size=64 if CUDA else 8, lr=1e-3, precision="fp32", ema_decay=0.9, save_every=10_000, eval_every=10_000
)


def pictures(count: int = 256 if CUDA else 32, size: int = MID["image_size"]) -> ImageData:
    """Random pictures that fit MID."""
    g = torch.Generator().manual_seed(0)
    shape, classes = (count, MID["channels"], size, size), tuple(str(k) for k in range(MID["num_classes"]))
    pixels = torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
    return ImageData(pixels, torch.arange(count) % len(classes), classes, "random", "train")


def trainable(seed: int = 0, **changes: Any) -> nn.Module:
    """A MID flow to be trained."""
    return perturbed(std=0.02, dtype=torch.float32, seed=seed, **{**MID, **changes}).train()


def steps(count: int, **changes: Any) -> TrainConfig:
    """A configuration of `count` steps that logs at the end alone, unless `changes` say otherwise."""
    return TrainConfig(**{**TRAIN, "steps": count, "log_every": count, **changes})


def go(
    folder: Path, config: TrainConfig, model: nn.Module | None = None, objective: nn.Module | None = None, **options
):
    """Train, and give the log."""
    objective = Likelihood() if objective is None else objective
    train(trainable() if model is None else model, objective, pictures(), config, folder, **options)
    return read_log(folder)


def embedded(count: int, limit: int | None = None, **changes: Any) -> RunConfig:
    """A run of `count` steps on the embedded pictures."""
    sections = {name: changes.pop(name) for name in ("align", "model") if name in changes}
    settings = {**TRAIN, "steps": count, "log_every": 1, **changes}
    model = {**FASHION, **sections.get("model", {})}
    return RunConfig(model=model, data={"limit": limit}, train=settings, align=sections.get("align"))


def weights(run: Path) -> dict[str, Tensor]:
    """Those of the newest checkpoint, and their average."""
    found = checkpoint.latest(run)
    return {
        f"{kind}.{name}": value
        for kind in ("model", "ema")
        for name, value in read_tensors(found.path / kind / "model.safetensors").items()
    }


class Waits:
    """A `prepare` that forbids waiting for the device from the step after `first` to the one before the last, both
    excluded: what is loaded and tuned in the first steps may wait, and what is logged and saved at the end."""

    def __init__(self, first: int, last: int):
        self.first, self.last, self.calls = first, last, 0

    def __call__(self, pixels: Tensor, noise: Any) -> tuple[Tensor, Tensor]:
        self.calls += 1
        if CUDA and self.calls == self.first:
            torch.cuda.set_sync_debug_mode("error")
        if CUDA and self.calls == self.last:
            torch.cuda.set_sync_debug_mode("default")
        return to_model_input(pixels, noise)


@contextlib.contextmanager
def peak() -> Iterator[list[int]]:
    """Bytes that the device held at most within, beyond what it held before; 0 on a CPU."""
    found: list[int] = []
    if not CUDA:
        yield found
        found.append(0)
        return
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield found
    torch.cuda.synchronize()
    found.append(torch.cuda.max_memory_allocated() - before)
