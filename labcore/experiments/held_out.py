"""Whether an alignment took place: the cosine at the aligned sites on images that training never saw."""

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
from labcore.flows.tarflow import TarFlow
from labcore.nn.pretrained import load_strictly, read_tensors
from labcore.rng import StepNoise
from labcore.runs.train import initialised
from labcore.spread import spread
from labcore.train import checkpoint
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.train.objectives import noised
from labcore.types import Site

BATCH = 250
"""Images at a time; our choice."""


class HeldOutTokens:
    """The encoder's tokens (n, t, width) of the test images that are looked at."""

    about = "held-out images"

    def __init__(self, tokens: Tensor):
        self.tokens, self.width = tokens, tokens.shape[-1]

    def __call__(self, batch: Any) -> Tensor:
        raise NotImplementedError("these tokens are not for training")


def held_out_alignment(
    config: RunConfig, run: Path, test: Dataset, num: int, device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """The alignment of a run on `num` test images, evenly spread, at each checkpoint, in order:

    step                      of the checkpoint
    held_out_cosine           mean over sites, tokens and images of the cosine between a projected hidden token and the
                              encoder's
    held_out_cosine_b_l       the same at site (b, l)
    held_out_chance           the same with the encoder's tokens of every other image, mean over these: what a projected
                              token that knows nothing of its image gives
    held_out_above_chance     held_out_cosine - held_out_chance
    held_out_above_chance_se  its standard error over images, taken as independent

    The current weights are used, not the averaged ones: projectors belong to these. Images have the noise and the labels of
    training, the same at every checkpoint; the encoder sees them clean. An alignment has happened where held_out_above_chance
    is several of its standard errors above 0. Raises ValueError for a run without alignment, fewer than 2 images, and a run
    without checkpoints.
    """
    if config.align is None:
        raise ValueError("the run has no alignment, and so no projectors; give an aligned arm")
    if num < 2:
        raise ValueError(f"held-out images were {num}; give at least 2")
    folders = sorted(checkpoint.folders(run))
    if not folders:
        raise ValueError(f"{run} has no checkpoints; train the arm first")
    tokens = held_out_tokens(config, test, num, device)
    batch = spread_images(test, num, config.model.num_classes > 0, device)
    flow = initialised(TarFlow, config).to(device).eval()
    objective = LikelihoodAndAlignment(config.align, config.model, HeldOutTokens(tokens)).to(device)
    noise = StepNoise(config.train.seed, 0, len(batch.x), torch.device(device))
    x, found = noised(flow, batch.x, noise), []
    for folder in folders:
        stored = checkpoint.read(folder)
        load_strictly(flow, read_tensors(folder / "model" / "model.safetensors"), folder)
        objective.load_state_dict(checkpoint.read_training(stored, torch.device(device))["objective"])
        found.append({"step": stored.step, **cosines(flow, objective, x, batch.y, tokens)})
    return found


@torch.no_grad()
def cosines(
    flow: TarFlow, objective: LikelihoodAndAlignment, x: Tensor, y: Tensor | None, tokens: Tensor
) -> dict[str, float]:
    """The numbers of `held_out_alignment` for images x as the flow sees them, and the encoder's tokens (n, t, width) of them.

    The values of hidden features do not depend on the direction of the alignment, so a forward pass gives them.
    """
    return compared(_projected(flow, objective, x, y), tokens)


def _projected(
    flow: TarFlow, objective: LikelihoodAndAlignment, x: Tensor, y: Tensor | None
) -> Iterator[tuple[slice, dict[Site, Tensor]]]:
    """Rows, and the projected hidden tokens (b, t, width) of these images by site, some images at a time."""
    sites = objective.config.sites
    for start in range(0, len(x), BATCH):
        rows = slice(start, start + BATCH)
        hiddens = flow(x[rows], None if y is None else y[rows], sites).hiddens
        yield rows, objective.heads({site: hiddens[site] for site in sites})


def compared(projected: Iterable[tuple[slice, Mapping[Site, Tensor]]], tokens: Tensor) -> dict[str, float]:
    """The numbers of `held_out_alignment` for projected tokens (rows, tokens (b, t, width) by site) and the encoder's."""
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
    """Tokens at length 1."""
    return F.normalize(tokens.double(), dim=-1)


def held_out_tokens(config: RunConfig, test: Dataset, num: int, device: torch.device | str = "cpu") -> Tensor:
    """Tokens (n, t, width) of the clean test images, seen by the encoder as it saw those of training."""
    a, d = config.align, config.data
    pictures = test.pictures
    if a.image_size is not None:
        pictures = spread(Data.of(d)._replace(image_size=a.image_size).split("test"), d.limit)
    encoder = encoders.load(a.encoder, a.weights, device=device)
    return cached_tokens(encoder, spread(pictures, num), config.model.grid, a.stage)
