"""A panel that draws samples of any run or saved model: checkpoint, class, guidance and seed under controls.

from labcore.runs.explore import explore

explore("runs/my-run")
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from labcore.biflow.model import BackwardModel
from labcore.inverse.sample import sample
from labcore.latents import to_pixels
from labcore.nn.pretrained import CONFIG
from labcore.runs.models import find_sampler
from labcore.train import checkpoint
from labcore.types import NULL
from labcore.viz import controls
from labcore.viz.class_labels import by_class, class_names
from labcore.viz.sheet import grid_png

if TYPE_CHECKING:
    from labcore.flows.tarflow import TarFlow
    from labcore.viz.panel import Panel

FINISHED = "finished model"
EACH, NO_CLASS = "one of each in turn", "no class"
STRONGEST = 3.0
"""Largest guidance; our choice. That of a student with guidance as an input is the largest it was trained with."""
SMALLEST = 64
"""Pixels that an image takes at least in the picture; our choice."""


def explore(
    source: str | Path, images: int = 16, save_to: str | Path = "outputs/pictures", device: str | None = None
) -> Panel:
    """Make a panel that draws samples of a run or a saved model.

    A student draws while a control moves. A flow, whose exact inverse takes longer, draws on release.

    Args:
        source: a shipped model, a run's folder, a checkpoint, a folder that save_pretrained wrote, or a hub name. A run's
            folder gives its finished model and all checkpoints that it has now.
        images: number of images, 1 or more.
        save_to: folder of saved pictures; default "outputs/pictures".
        device: where images are drawn; default "cuda" where there is one, otherwise "cpu".

    Raises:
        FileNotFoundError, ValueError: as `labcore.runs.models.find_model`; ValueError for no images.
    """
    from labcore.viz.panel import Panel

    if images < 1:
        raise ValueError(f"images was {images}; give 1 or more")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    places = checkpoints(source)

    @lru_cache(2)
    def read(place: str) -> TarFlow | BackwardModel:
        return find_sampler(place).to(device)

    first = read(next(iter(places.values())))
    c, is_student = first.config, isinstance(first, BackwardModel)
    names = class_names(range(c.num_classes), c.class_names)
    columns = math.ceil(math.sqrt(images))

    def draw(place: str, seed: int, kind: int | None = NULL, guidance: float = 0.0) -> bytes:
        model = read(place)
        y = None if kind == NULL else labels(kind, images, c.num_classes)
        x = to_pixels(model, sample(model, images, y, 0.0 if y is None else guidance, seed=seed)).cpu()
        return grid_png(x, columns, max(1, -(-SMALLEST // x.shape[-1])), **by_class(y, columns, c.class_names))

    moved = {"place": controls.choice("checkpoint", places, next(iter(places.values())))}
    if c.num_classes:
        kinds = {EACH: None} | {name: number for number, name in enumerate(names)} | {NO_CLASS: NULL}
        moved["kind"] = controls.choice("class", kinds, None)
        moved["guidance"] = controls.number("guidance", 0.0, getattr(c, "max_guidance", 0.0) or STRONGEST, 0.0)
    moved["seed"] = controls.whole("seed", 0, 99, 0)
    caption = f"{images} samples of {source}, {'in one pass' if is_student else 'by the exact inverse, denoised'}"
    return Panel(draw, moved, live=is_student, caption=caption, save_to=save_to)


def checkpoints(source: str | Path) -> dict[str, str]:
    """Return the models that `source` has, by name: the finished one and the checkpoints from the newest on, or itself."""
    folder = Path(source)
    steps = checkpoint.folders(folder) if folder.is_dir() else []
    found = {f"step {int(place.name.partition('-')[2]):,}": str(place) for place in steps}
    if not found:
        return {Path(source).name: str(source)}
    if (folder / "model" / CONFIG).is_file():
        found = {FINISHED: str(folder / "model")} | found
    return found


def labels(kind: int | None, images: int, classes: int) -> torch.Tensor:
    """Return labels (images,): all of class `kind`, or for None each class in turn."""
    return torch.arange(images) % classes if kind is None else torch.full((images,), kind)
