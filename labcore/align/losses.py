"""Distances between projected features and encoder tokens: one number per image, averaged over its tokens.

All are computed in float32 even under autocast, because a norm in bfloat16 has only three digits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.1
"""Temperature of NT-Xent. Our choice: FlowBack does not use this loss, and REPA gives no value."""

Similarity = Callable[[Tensor, Tensor], Tensor]
"""Loss from projected features (b, t, d) and encoder tokens (b, t, d) to (b,)."""


def cosine(p: Float[Tensor, "b t d"], v: Float[Tensor, "b t d"]) -> Float[Tensor, " b"]:
    """Return 1 - cosine of each token with its target (FlowBack, equation 4, and the constant 1 of its released code).

    Args:
        p: projected features (b, t, d).
        v: encoder tokens (b, t, d); no gradient.

    Returns:
        The loss (b,), between 0 and 2.
    """
    p, v = _float32(p, v)
    return (1 - (F.normalize(p, dim=-1) * F.normalize(v, dim=-1)).sum(-1)).mean(-1)


def nt_xent(p: Float[Tensor, "b t d"], v: Float[Tensor, "b t d"]) -> Float[Tensor, " b"]:
    """Return the cross-entropy of finding a token's own target among all targets of its image, by cosine / TEMPERATURE.

    REPA compares this loss with the cosine. Negatives are the other tokens of the same image (our choice), so an image's
    loss does not depend on the split of a batch over processes.

    Args:
        p: projected features (b, t, d).
        v: encoder tokens (b, t, d); no gradient.

    Returns:
        The loss (b,) in nats.
    """
    p, v = _float32(p, v)
    with torch.autocast(p.device.type, enabled=False):
        logits = F.normalize(p, dim=-1) @ F.normalize(v, dim=-1).mT / TEMPERATURE
    return (logits.logsumexp(-1) - logits.diagonal(dim1=-2, dim2=-1)).mean(-1)


def mse(p: Float[Tensor, "b t d"], v: Float[Tensor, "b t d"]) -> Float[Tensor, " b"]:
    """Return the mean squared distance to the target token, normalised to mean 0 and standard deviation 1 (our choice).

    Args:
        p: projected features (b, t, d).
        v: encoder tokens (b, t, d); no gradient.

    Returns:
        The loss (b,).
    """
    p, v = _float32(p, v)
    return (p - F.layer_norm(v, v.shape[-1:])).square().mean((-1, -2))


LOSSES: dict[str, Similarity] = {"cosine": cosine, "nt-xent": nt_xent, "mse": mse}
"""Value of `align.loss` -> loss."""


def _float32(p: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32, or float64 if they have that dtype; targets carry no gradient."""
    dtype = torch.promote_types(p.dtype, torch.float32)
    return p.to(dtype), v.detach().to(dtype)
