"""Gradients of the log-density with respect to inputs of a flow: the score of images, and of classes.

A backward pass keeps the activations of all layers, gigabytes for one image of the papers' flows. So it is done for a few
images at a time, and parameters, whose gradients are not used, keep nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from labcore.config import TarFlowConfig
from labcore.flows.tarflow import TarFlow

SAVED = 4 * 2**30
"""Most bytes of activations, unless one image needs more. Our choice, so that it fits next to a training that fills a GPU."""
WIDTHS = {"gelu": 10, "swiglu": 16}
"""Values that a layer keeps for each token, divided by the width, for each kind of MLP; an upper bound, at most a fifth too
large."""


def slopes(flow: TarFlow, slope: Callable[[slice], Tensor], images: int) -> Tensor:
    """Return slope(rows) for all rows of `images`, in parts, with gradients on, also under inference_mode; parameters get none.

    Each row's slope must depend only on that row.
    """
    step = at_once(flow.config, flow.dtype)
    parts = [slice(first, first + step) for first in range(0, max(images, 1), step)]
    with torch.inference_mode(False), torch.enable_grad(), _without_parameters(flow):
        return torch.cat([slope(part) for part in parts])


def at_once(config: TarFlowConfig, dtype: torch.dtype = torch.float32) -> int:
    """Return how many images keep at most SAVED bytes, at least 1.

    Matrices of all pairs of tokens, which fused attention does not keep, are not counted.
    """
    layers = config.num_blocks * config.layers_per_block
    values_per_image = layers * config.tokens * config.width * WIDTHS[config.mlp]
    return max(1, SAVED // (dtype.itemsize * values_per_image))


@contextlib.contextmanager
def _without_parameters(flow: TarFlow) -> Iterator[None]:
    """Switch off the gradients of parameters inside, and restore them after it."""
    trainable = [p for p in flow.parameters() if p.requires_grad and not p.is_inference()]
    try:
        for p in trainable:
            p.requires_grad_(False)
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
