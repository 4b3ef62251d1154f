"""Grids of samples that are written during a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from labcore.inverse.sample import Sampler, sample
from labcore.latents import to_pixels
from labcore.train.log import preview_name
from labcore.viz.class_labels import by_class
from labcore.viz.sheet import save_grid


def preview_in(folder: Path) -> Callable[[Any, int], None]:
    """Return a hook that writes a sample grid for a step."""
    return lambda ema, step: write_preview(ema, folder / preview_name(step))


def write_preview(flow: Sampler, path: Path, per_class: int = 4) -> None:
    """Write a PNG grid of samples, one column per class (16 images if there are no classes)."""
    classes = flow.config.num_classes
    columns = min(classes, 10) or 4
    y = torch.arange(columns).repeat(per_class) if classes else None
    images = to_pixels(flow, sample(flow, columns * per_class, y, seed=0))
    names = by_class(y, columns, flow.config.class_names)
    save_grid(images.cpu(), columns, path, scale=2 if images.shape[-1] < 64 else 1, **names)
