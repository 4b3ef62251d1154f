"""Likelihood of held-out images, with its correct unit.

A flow trained with uniform dequantisation has bits/dim (ml-tarflow evaluate_bpd.py: one draw per image). A flow trained
with Gaussian noise models the density of noised images: its unit is nats/dim at that noise level, and bits/dim is
undefined.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labcore import provenance
from labcore.data.loaders import in_order
from labcore.data.protocol import Dataset
from labcore.data.transforms import bits_per_dim, dequantize
from labcore.finite import images_from
from labcore.flows.tarflow import TarFlow
from labcore.progress import Progress
from labcore.rng import normal_per_item, seed_of
from labcore.spread import check_limit, spread


class LikelihoodRecord(NamedTuple):
    """Likelihood of n images.

    Attributes:
        nats: mean negative log-likelihood of an image, in nats.
        standard_error: standard error of `nats`, in nats.
        n: number of images.
        conditional: whether labels were used.
        nats_per_dim: nats divided by the number of values of an image.
        low: lower end of its 95% interval, 1.96 standard errors below.
        high: upper end of its 95% interval.
        bits_per_dim: None unless the flow was trained with uniform dequantisation.
        density: the density that the number describes, in words.
        made_with: seed, data, code and device.
    """

    nats: float
    standard_error: float
    nats_per_dim: float
    low: float
    high: float
    bits_per_dim: float | None
    n: int
    conditional: bool
    density: str
    made_with: dict[str, Any]

    def __str__(self) -> str:
        dim = (
            f"{self.nats_per_dim:.4f} nats/dim ({self.density})"
            if self.bits_per_dim is None
            else f"{self.bits_per_dim:.4f} bits/dim"
        )
        return f"{self.nats:.2f} +- {self.standard_error:.2f} nats per image, {dim}, n = {self.n}"


@torch.no_grad()
def likelihood(
    flow: TarFlow,
    dataset: Dataset,
    conditional: bool = True,
    limit: int | None = None,
    batch_size: int = 250,
    seed: int = 0,
    progress: Progress | None = None,
) -> LikelihoodRecord:
    """Measure the negative log-likelihood of images.

    The flow is evaluated as given; put it into eval mode and full precision first. The noise of the i-th image depends
    only on (seed, i).

    Args:
        flow: the flow.
        dataset: images, with labels if the flow has classes.
        limit: number of images, evenly spread; None: all.
        conditional: use the true labels, if the flow has classes.
        seed: random seed of the noise.
        batch_size: images at a time.
        progress: called after each batch; None (default): not called.

    Raises:
        ValueError: fewer than 2 images, a limit below 1, or a likelihood that is not finite.
    """
    check_limit(limit)
    dataset = spread(dataset, limit)
    count = len(dataset)
    if count < 2:
        raise ValueError(f"{count} images; a mean with a standard error needs at least 2")
    conditional = conditional and flow.config.num_classes > 0
    nats, start = [], 0
    for pixels, labels in in_order(dataset, batch_size):
        x = continuous(flow, dataset.floats(pixels), range(start, start + len(pixels)), seed).to(
            flow.device, flow.dtype
        )
        with images_from(start):
            nats.append(-flow.log_prob(x, labels.to(flow.device) if conditional else None).double().cpu())
        start += len(pixels)
        if progress is not None:
            progress("likelihood of images", start, count)
    nats = torch.cat(nats)
    if not bool(nats.isfinite().all()):
        raise ValueError(
            f"the likelihood of {int((~nats.isfinite()).sum())} of {count} images is not finite: the flow diverged"
        )
    error = float(nats.std() / math.sqrt(count))
    per_dim, margin = float(nats.mean()) / flow.config.dims, 1.96 * error / flow.config.dims
    uniform = flow.config.noise == "uniform"
    return LikelihoodRecord(
        nats=float(nats.mean()),
        standard_error=error,
        nats_per_dim=per_dim,
        low=per_dim - margin,
        high=per_dim + margin,
        bits_per_dim=bits_per_dim(per_dim) if uniform else None,
        n=count,
        conditional=conditional,
        density="dequantised pixels" if uniform else f"images noised with sigma {flow.config.noise_std:g}",
        made_with={"seed": seed, "data": f"{dataset.name}/{dataset.split}", **provenance.stamp()},
    )


def continuous(flow: TarFlow, x: Float[Tensor, "b c h w"], indices: range, seed: int) -> Float[Tensor, "b c h w"]:
    """Return images noised or dequantised as in the flow's training, image by image from (seed, index)."""
    shape = tuple(x.shape[1:])
    if flow.config.noise == "uniform":
        draws = [torch.Generator().manual_seed(seed_of(seed, "dequantisation", i)) for i in indices]
        return dequantize(x, torch.stack([torch.rand(shape, generator=g) for g in draws]))
    return x + flow.config.noise_std * normal_per_item(seed, "likelihood", indices, shape)
