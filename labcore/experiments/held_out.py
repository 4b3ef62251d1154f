"""Test of whether an alignment took place: the cosine at the aligned sites on images that were not used in training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional as F

from labcore import encoders
from labcore.config import RunConfig
from labcore.data.batch import spread_images
from labcore.data.datasets import Data
from labcore.data.protocol import Dataset
from labcore.encoders.cache import cached_tokens
from labcore.experiments.along import with_weights_of_each
from labcore.flows.tarflow import TarFlow
from labcore.rng import StepNoise
from labcore.runs.train import initialised
from labcore.sites import Site
from labcore.spread import spread
from labcore.train import checkpoint
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.train.objectives import noised

BATCH = 250
"""Number of images at a time; our choice."""


class HeldOutTokens:
    """The encoder's tokens (n, t, width) of the chosen test images."""

    about = "held-out images"

    def __init__(self, tokens: Tensor):
        self.tokens, self.width = tokens, tokens.shape[-1]

    def __call__(self, batch: Any) -> Tensor:
        raise NotImplementedError("these tokens are not for training")


def held_out_alignment(
    config: RunConfig, run: Path, test: Dataset, num: int, device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """Measure the alignment of a run at each of its checkpoints, on `num` evenly spread test images.

    Each entry of the list has:

    step                      step of the checkpoint
    held_out_cosine           mean over sites, tokens and images of the cosine between a projected hidden token and the
                              encoder's token
    held_out_cosine_b_l       the same at site (b, l)
    held_out_chance           the same with the encoder's tokens of all other images: the value of a projected token that has
                              no information about its image
    held_out_above_chance     held_out_cosine - held_out_chance
    held_out_above_chance_se  its standard error over images, which are treated as independent

    The current weights are used, not the averaged ones, because the projectors belong to the current weights. Images have the
    noise and labels of training, the same at every checkpoint; the encoder gets clean images. An alignment took place if
    held_out_above_chance is several standard errors above 0. Raises ValueError for a run without alignment or checkpoints,
    and for fewer than 2 images.
    """
    if config.align is None:
        raise ValueError("the run has no alignment, and so no projectors; give an aligned arm")
    if num < 2:
        raise ValueError(f"held-out images were {num}; give at least 2")
    if not checkpoint.folders(run):
        raise ValueError(f"{run} has no checkpoints; train the arm first")
    tokens = held_out_tokens(config, test, num, device)
    batch = spread_images(test, num, config.model.num_classes > 0, device)
    flow = initialised(TarFlow, config).to(device).eval()
    objective = LikelihoodAndAlignment(config.align, config.model, HeldOutTokens(tokens)).to(device)
    noise = StepNoise(config.train.seed, 0, len(batch.x), torch.device(device))
    x = noised(flow, batch.x, noise)
    steps = with_weights_of_each(run, flow, objective, device)
    return [{"step": step, **cosines(flow, objective, x, batch.y, tokens)} for step in steps]


@torch.no_grad()
def cosines(
    flow: TarFlow, objective: LikelihoodAndAlignment, x: Tensor, y: Tensor | None, tokens: Tensor
) -> dict[str, float]:
    """Return the measures of `held_out_alignment` for noisy images x and the encoder's tokens (n, t, width) of clean ones.

    One forward pass gives the hidden features, because their values do not depend on the direction of the alignment.
    """
    return compared(_projected(flow, objective, x, y), tokens)


def _projected(
    flow: TarFlow, objective: LikelihoodAndAlignment, x: Tensor, y: Tensor | None
) -> Iterator[tuple[slice, dict[Site, Tensor]]]:
    """Yield rows, and {site: projected hidden tokens (b, t, width)} of these images, some images at a time."""
    sites = objective.config.sites
    for start in range(0, len(x), BATCH):
        rows = slice(start, start + BATCH)
        hiddens = flow(x[rows], None if y is None else y[rows], sites).hiddens
        yield rows, objective.heads({site: hiddens[site] for site in sites})


def compared(projected: Iterable[tuple[slice, Mapping[Site, Tensor]]], tokens: Tensor) -> dict[str, float]:
    """Return the measures of `held_out_alignment` for (rows, {site: projected tokens}) and the encoder's tokens."""
    n = len(tokens)
    total = sum(_directions(part).sum(0) for part in tokens.split(BATCH))
    own: dict[Site, list[Tensor]] = defaultdict(list)
    chance: dict[Site, list[Tensor]] = defaultdict(list)
    for rows, by_site in projected:
        true = _directions(tokens[rows])
        others = (total - true) / (
            n - 1
        )  # the mean of directions: <p, others> is the mean cosine over the other images
        for site, found in by_site.items():
            p = _directions(found).to(true)
            own[site].append((p * true).sum(-1).mean(-1))
            chance[site].append((p * others).sum(-1).mean(-1))
    of_site = {site: torch.cat(parts) for site, parts in own.items()}
    mean_own = torch.stack(list(of_site.values())).mean(0)
    mean_chance = torch.stack([torch.cat(parts) for parts in chance.values()]).mean(0)
    above = mean_own - mean_chance
    return {
        "held_out_cosine": float(mean_own.mean()),
        "held_out_chance": float(mean_chance.mean()),
        "held_out_above_chance": float(above.mean()),
        "held_out_above_chance_se": float(above.std() / n**0.5),
        **{f"held_out_cosine_{b}_{layer}": float(values.mean()) for (b, layer), values in of_site.items()},
    }


def _directions(tokens: Tensor) -> Float64[Tensor, "b t width"]:
    """Normalise tokens to length 1."""
    return F.normalize(tokens.double(), dim=-1)


def held_out_tokens(config: RunConfig, test: Dataset, num: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the encoder's tokens (n, t, width) of clean test images, prepared as the training images were."""
    a, d = config.align, config.data
    pictures = test.pictures
    if a.image_size is not None:
        pictures = spread(Data.of(d)._replace(image_size=a.image_size).split("test"), d.limit)
    encoder = encoders.load(a.encoder, a.weights, device=device)
    return cached_tokens(encoder, spread(pictures, num), config.model.grid, a.stage)
