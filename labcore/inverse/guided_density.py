"""The density of guided samples, which is exact as the flow's own.

A guided inverse takes x = z exp(s) + m with s and m extrapolated from class and no class (`labcore.guidance`). These are
functions of earlier tokens alone, so the guided blocks are affine autoregressive maps again, and one pass from x to z gives
their log-determinant. Our own derivation; the papers do not compute it.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from labcore.flows.metablock import one_token_later
from labcore.flows.tarflow import TarFlow
from labcore.guidance import guide
from labcore.kernels.affine import affine_forward


def guided_log_prob(
    flow: TarFlow, x: Float[Tensor, "b c h w"], y: Int[Tensor, " b"], w: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Return log p in nats, (b,), of the images that `labcore.invert` makes of normal noise with guidance.

    Args:
        flow: a flow with classes.
        x: images (b, c, h, w).
        y: int64 labels (b,), where -1 is no class.
        w: guidance scale of each image (b,), the same for all tokens and blocks; at 0 the result is flow.log_prob(x, y).

    Values are not checked, so that the function can be exported as a graph.
    """
    tokens, log_det, scale = flow.patchify(x), 0.0, w[:, None, None]
    for block in flow.blocks:
        u = block.permute(tokens)
        of_class, of_none = block.next_params(u, block.condition(y)), block.next_params(u, block.condition(None))
        log_scale, shift = (one_token_later(guide(c, n, scale)) for c, n in zip(of_class, of_none, strict=True))
        z, part = affine_forward(u, log_scale, shift)
        tokens, log_det = block.permute(z), log_det + part
    return flow.log_prior(tokens) + log_det
