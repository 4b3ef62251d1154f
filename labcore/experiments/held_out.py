"""Whether an alignment took place: the cosine at the aligned sites on images that training never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labcore import encoders
from labcore.config import RunConfig
from labcore.data.datasets import Data
from labcore.encoders.cache import cached_tokens
from labcore.flows.tarflow import TarFlow
from labcore.latents import LatentData
from labcore.nn.pretrained import load_strictly, read_tensors
from labcore.rng import StepNoise
from labcore.runs.train_flow import initialised
from labcore.runs.train_student import spread_images
from labcore.spread import spread
from labcore.train import checkpoint
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.train.objectives import noised

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
    config: RunConfig, run: Path, test: Any, num: int, device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """The alignment of a run on `num` test images, evenly spread, at each checkpoint, in order:

    step                 of the checkpoint
    held_out_cosine      mean over sites, tokens and images of the cosine between a projected hidden token and the encoder's
    held_out_cosine_b_l  the same at site (b, l)
    held_out_chance      the same with the tokens of another image (the next one): what the encoder's mean direction alone gives

    The current weights are used, not the averaged ones: projectors belong to these. Images have the noise and the labels of
    training, the same at every checkpoint; the encoder sees them clean. An alignment has happened where held_out_cosine is
    above held_out_chance. Raises ValueError for a run without alignment, fewer than 2 images, and a run without checkpoints.
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
        kept = checkpoint.read(folder)
        load_strictly(flow, read_tensors(folder / "model" / "model.safetensors"), folder)
        objective.load_state_dict(checkpoint.read_training(kept, torch.device(device))["objective"])
        found.append({"step": kept.step, **cosines(flow, objective, x, batch.y, tokens)})
    return found


@torch.no_grad()
def cosines(
    flow: TarFlow, objective: LikelihoodAndAlignment, x: Tensor, y: Tensor | None, tokens: Tensor
) -> dict[str, float]:
    """The numbers of `held_out_alignment` for images x as the flow sees them, and the encoder's tokens (n, t, width) of them.

    The values of hidden features do not depend on the direction of the alignment, so a forward pass gives them.
    """
    sites = objective.config.sites
    own, chance = dict.fromkeys(sites, 0.0), 0.0
    others = tokens.roll(1, 0)
    for start in range(0, len(x), BATCH):
        rows = slice(start, start + BATCH)
        hiddens = flow(x[rows], None if y is None else y[rows], sites).hiddens
        for site, projected in objective.heads({site: hiddens[site] for site in sites}).items():
            p = F.normalize(projected.float(), dim=-1)
            true, other = (F.normalize(t[rows].to(p), dim=-1) for t in (tokens, others))
            own[site] += float((p * true).sum(-1).mean(-1).sum())
            chance += float((p * other).sum(-1).mean(-1).sum())
    n = len(x)
    found = {f"held_out_cosine_{b}_{layer}": total / n for (b, layer), total in own.items()}
    return {"held_out_cosine": sum(own.values()) / n / len(sites), "held_out_chance": chance / n / len(sites), **found}


def held_out_tokens(config: RunConfig, test: Any, num: int, device: torch.device | str = "cpu") -> Tensor:
    """Tokens (n, t, width) of the clean test images, seen by the encoder as it saw those of training."""
    a, d = config.align, config.data
    pictures = test.pictures if isinstance(test, LatentData) else test
    if a.image_size is not None:
        pictures = spread(Data.of(d)._replace(image_size=a.image_size).split("test"), d.limit)
    encoder = encoders.load(a.encoder, a.weights, device=device)
    return cached_tokens(encoder, spread(pictures, num), config.model.grid, a.stage)
