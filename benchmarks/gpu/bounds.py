"""Lower bounds of seconds from what the card was measured to do: bytes it copies and products it makes in a second.

A kernel takes at least as long as its bytes or its products take, whichever is longer; kernels run one after another.
Products of an n x n attention count half where it is causal. Only matrix products are counted, and only the bytes of weights,
caches and operands.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from labcore.config import TarFlowConfig

BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}


class Bounds:
    """Seconds from ceilings: "copy" in bytes/s, read and written; "fp32", "tf32", "bf16" in FLOP/s. None without them."""

    def __init__(self, ceilings: Mapping[str, float]):
        self.ceilings = ceilings

    def arithmetic(self, flops: float, precision: str) -> float | None:
        """Seconds of so many floating-point operations."""
        rate = self.ceilings.get(precision)
        return flops / rate if rate else None

    def traffic(self, size: float) -> float | None:
        """Seconds of so many bytes."""
        rate = self.ceilings.get("copy")
        return size / rate if rate else None

    def inverse(self, flow: nn.Module, images: int, guided: bool, precision: str) -> float | None:
        """The exact inverse, token by token: all weights are read for every token, and the cache so far for every row."""
        rows = images * (2 if guided else 1)
        weights = self.traffic(weight_bytes(flow, precision))
        products = self.arithmetic(rows * products_of(flow), precision)
        cache = self.traffic(rows * cache_bytes(flow.config, precision))
        return None if None in (weights, products, cache) else max(weights, products) + cache

    def denoising(self, flow: nn.Module, images: int, precision: str) -> float | None:
        """Forward pass and the gradient of the image, which takes as much again."""
        return self.arithmetic(2 * images * forward_flops(flow), precision)

    def one_pass(self, model: nn.Module, images: int, precision: str) -> float | None:
        """A learned inverse: its products, or its weights read once."""
        flops = self.arithmetic(images * pass_flops(model), precision)
        read = self.traffic(linear_weights(model.blocks) * BYTES[precision])
        return None if None in (flops, read) else max(flops, read)


def linear_weights(module: nn.Module) -> int:
    """Values of all weight matrices of linear layers."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def products_of(flow: nn.Module) -> int:
    """FLOPs of one image's products with weights, a multiply-add being two."""
    return 2 * flow.config.tokens * linear_weights(flow)


def forward_flops(flow: nn.Module) -> int:
    """FLOPs of one image in a forward pass: products with weights, and causal attention."""
    c = flow.config
    return products_of(flow) + c.num_blocks * c.layers_per_block * 2 * c.tokens**2 * c.width


def step_flops(flow: nn.Module) -> int:
    """FLOPs of one image in a training step: the backward pass takes twice the forward pass."""
    return 3 * forward_flops(flow)


def pass_flops(model: nn.Module) -> int:
    """FLOPs of one image in one pass of a learned inverse, every token of which sees all; guidance's embedding is left out."""
    c = model.config
    tokens = c.tokens + (c.class_tokens if c.num_classes else 0) + (c.guidance_tokens if c.max_guidance else 0)
    layers = sum(linear_weights(block.layers) for block in model.blocks)
    ends = linear_weights(model.blocks) - layers + linear_weights(model.heads)
    attention = c.num_states * c.layers_per_block * 4 * tokens**2 * c.width
    return 2 * tokens * layers + 2 * c.tokens * ends + attention


def weight_bytes(flow: nn.Module, precision: str) -> int:
    """Bytes of weights that one inverse reads: the first t - 1 tokens of every block go through all its layers."""
    return (flow.config.tokens - 1) * linear_weights(flow) * BYTES[precision]


def cache_bytes(c: TarFlowConfig, precision: str) -> int:
    """Bytes of keys and values that one row of an inverse reads: i of them for token i."""
    pairs = c.tokens * (c.tokens - 1) // 2
    return c.num_blocks * c.layers_per_block * 2 * pairs * c.width * BYTES[precision]


def update_bytes(parameters: int) -> int:
    """Bytes of clipping (3 x the parameters), AdamW (7 x) and the average (3 x) in float32."""
    return 13 * 4 * parameters
