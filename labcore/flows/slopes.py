"""Slopes of the log-density towards what goes into a flow: the score of images, and of classes.

A backward pass keeps the activations of all layers, gigabytes for one image of the papers' flows. So it is done for a few
images at a time, and parameters, whose gradients nobody asked for, keep nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from labcore.config import TarFlowConfig
from labcore.flows.tarflow import TarFlow

SAVED = 4 * 2**30
"""Bytes of activations that are kept at most, but for those of one image; our choice, beside a training that fills a GPU."""
WIDTHS = {"gelu": 10, "swiglu": 16}
"""Values that a layer keeps for a token, in widths, by the kind of its MLP; counted, and up to a fifth fewer."""


def slopes(flow: TarFlow, slope: Callable[[slice], Tensor], images: int) -> Tensor:
    """slope(rows) for all rows of `images`, some at a time, with gradients on, under inference_mode too; parameters get none.

    Each row's slope must be a function of that row alone.
    """
    step = at_once(flow.config, flow.dtype)
    parts = [slice(first, first + step) for first in range(0, max(images, 1), step)]
    with torch.inference_mode(False), torch.enable_grad(), _without_parameters(flow):
        return torch.cat([slope(part) for part in parts])


def at_once(config: TarFlowConfig, dtype: torch.dtype = torch.float32) -> int:
    """How many images keep at most SAVED bytes, at least 1. Matrices of all pairs of tokens, which no fused attention keeps,
    are left out."""
    layers = config.num_blocks * config.layers_per_block
    values_per_image = layers * config.tokens * config.width * WIDTHS[config.mlp]
    return max(1, SAVED // (dtype.itemsize * values_per_image))


@contextlib.contextmanager
def _without_parameters(flow: TarFlow) -> Iterator[None]:
    """Switch off the gradients of parameters inside, and those that were on, on again after it."""
    trainable = [p for p in flow.parameters() if p.requires_grad and not p.is_inference()]
    try:
        for p in trainable:
            p.requires_grad_(False)
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
