"""The exact inverse of a flow: x_i = z_i exp(log_scale_i(x_<i)) + shift_i(x_<i), block by block from z to the image.

Within a block the tokens depend on each other in order, so the sequential solver makes t - 1 one-token steps with cached
keys and values (TARFlow, sampling).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.flows.metablock import Labels, MetaBlock
from labcore.flows.tarflow import TarFlow
from labcore.guidance import Schedule, per_block, token_weights
from labcore.inverse.params import GuidedParams
from labcore.kernels.affine import affine_inverse
from labcore.nn.patch import check_tokens
from labcore.types import BlockStats, InverseOutput

Solver = Literal["sequential"]
SOLVERS: tuple[Solver, ...] = ("sequential",)


@torch.no_grad()
def invert(
    flow: TarFlow,
    z: Float[Tensor, "b t d"],
    y: Labels = None,
    guidance: float | Tensor | list[float] | tuple[float, ...] = 0.0,
    guidance_schedule: Schedule = "constant",
    attn_temp: float = 1.0,
    solver: Solver = "sequential",
) -> InverseOutput:
    """Noise to images; the exact inverse of `flow(x, y).z` at guidance 0.

    z: (b, t, d) in raster order, left as it was; not scaled by the prior's variance. y: as in the flow.
    guidance: g in c + g (c - u), 0 is off and skips the second branch; a number, one per image (b,), or a list with one
    per block 1..T. guidance_schedule: "linear" gives position j of a block's own order g j / (t - 1).
    attn_temp: temperature of the attention logits in the second branch; an unconditional model (or y=None) needs one other
    than 1 to have two different branches at all.
    Returns images (b, c, h, w), not clipped, and one BlockStats per block in sampling order. Builds no graph.
    Raises ValueError for shapes, labels or settings that do not fit.
    """
    check_latents(flow, z)
    flow.check_labels(y, z.shape[0], ranges=True)
    if solver not in SOLVERS:
        raise ValueError(f"solver was {solver!r}; allowed are {', '.join(SOLVERS)}")
    if not attn_temp > 0:
        raise ValueError(
            f"attn_temp was {attn_temp}; it divides attention logits and must be above 0 (1 changes nothing)"
        )
    weights = token_weights(guidance_schedule, flow.config.tokens, z.device)
    strengths = per_block(guidance, len(flow.blocks), z)
    if y is None and attn_temp == 1.0 and any(g is not None for g in strengths):
        raise ValueError(
            "guidance without labels compares two equal branches; give labels y, or attn_temp other than 1 (0.3 at "
            "guidance 0.2 is what ImageNet 64 without classes uses)"
        )
    tokens, stats = z, []
    for number in range(len(flow.blocks), 0, -1):
        block = flow.blocks[number - 1]
        params = GuidedParams(block, y, tokens, strengths[number - 1], weights, attn_temp)
        tokens = invert_block(block, tokens, params)
        stats.append(BlockStats(number, tokens.shape[1] - 1, None))
    return InverseOutput(flow.unpatchify(tokens), tuple(stats))


def invert_block(block: MetaBlock, z: Float[Tensor, "b t d"], params: GuidedParams) -> Float[Tensor, "b t d"]:
    """One block, token by token: the first token is z's, each next one needs the parameters after the ones before."""
    z = block.permute(z)
    x = z.clone()
    for i in range(1, z.shape[1]):
        log_scale, shift = params.after(x[:, i - 1 : i])
        x[:, i : i + 1] = affine_inverse(z[:, i : i + 1], log_scale, shift)
    return block.permute(x)


def check_latents(flow: TarFlow, z: Tensor) -> None:
    """ValueError unless z is a floating, finite (b, t, d) of this flow."""
    c = flow.config
    check_tokens(z, c.tokens, c.token_dim, flow.dtype)
    if not bool(z.isfinite().all()):
        raise ValueError("z holds NaN or infinity; check what made it, for example with flow(x).z.isfinite()")
