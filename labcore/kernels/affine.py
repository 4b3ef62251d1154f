"""The affine step of an autoregressive block, and its inverse (FlowBack eq. 2).

Sign convention of the whole lab: ``x = z exp(log_scale) + shift``, so ``z = (x - shift) exp(-log_scale)`` and
``log |det dz/dx| = -sum(log_scale)``.
"""

from __future__ import annotations

from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.kernels import dispatch


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in their common dtype, float32 or wider: bfloat16 becomes float32, float64 is kept."""
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)
    return tuple(x.to(dtype) for x in tensors)


def affine_forward(
    x: Float[Tensor, "b t d"], log_scale: Float[Tensor, "b t d"], shift: Float[Tensor, "b t d"]
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, " b"]]:
    """Return z = (x - shift) exp(-log_scale), and its log-determinant per image in nats; both in float32 or wider."""
    x, log_scale, shift = at_least_float32(x, log_scale, shift)
    if dispatch.by_triton(x, log_scale, shift, by_default=False):  # the twin can be differentiated only once
        found = dispatch.by_twin("affine_triton", "affine_forward", x, log_scale, shift)
        if found is not None:
            return found
    return (x - shift) * torch.exp(-log_scale), -log_scale.sum(dim=(1, 2))


def affine_inverse(
    z: Float[Tensor, "b *t d"], log_scale: Float[Tensor, "b *t d"], shift: Float[Tensor, "b *t d"]
) -> Float[Tensor, "b *t d"]:
    """Return x = z exp(log_scale) + shift, in float32 or wider."""
    z, log_scale, shift = at_least_float32(z, log_scale, shift)
    return torch.addcmul(shift, z, log_scale.exp())
