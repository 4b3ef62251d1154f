"""How unlike projected features and encoder tokens are: a number an image, averaged over its tokens.

All are computed in float32 whatever autocast says: a norm in bfloat16 has three digits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.1
"""Of NT-Xent. Our choice: FlowBack does not use it, and REPA does not give its own."""

Similarity = Callable[[Tensor, Tensor], Tensor]


def cosine(p: Float[Tensor, "b t d"], v: Float[Tensor, "b t d"]) -> Float[Tensor, " b"]:
    """1 - cosine of each token with its target (FlowBack, equation 4, and the constant 1 of its released code)."""
    p, v = _float32(p, v)
    return (1 - (F.normalize(p, dim=-1) * F.normalize(v, dim=-1)).sum(-1)).mean(-1)


def nt_xent(p: Float[Tensor, "b t d"], v: Float[Tensor, "b t d"]) -> Float[Tensor, " b"]:
    """Cross-entropy of finding a token's own target among all targets of its image, by cosine / TEMPERATURE.

    REPA compares it with the cosine. That other tokens of the same image are the negatives is our choice: so an image's
    loss does not depend on how a batch is split over processes.
    """
    p, v = _float32(p, v)
    with torch.autocast(p.device.type, enabled=False):
        logits = F.normalize(p, dim=-1) @ F.normalize(v, dim=-1).mT / TEMPERATURE
    return (logits.logsumexp(-1) - logits.diagonal(dim1=-2, dim2=-1)).mean(-1)


def mse(p: Float[Tensor, "b t d"], v: Float[Tensor, "b t d"]) -> Float[Tensor, " b"]:
    """Mean squared distance to the target token with its mean removed and its standard deviation set to 1 (our choice)."""
    p, v = _float32(p, v)
    return (p - F.layer_norm(v, v.shape[-1:])).square().mean((-1, -2))


LOSSES: dict[str, Similarity] = {"cosine": cosine, "nt-xent": nt_xent, "mse": mse}


def _float32(p: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, or float64 where they are that already; targets carry no gradient."""
    dtype = torch.promote_types(p.dtype, torch.float32)
    return p.to(dtype), v.detach().to(dtype)
