"""The affine step with its log-determinant as one Triton kernel, and its gradient as another.

The reference makes five passes over (b, t, d) in the forward direction; this makes one, and one in the backward direction.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from labcore.kernels import dispatch

CHUNK = 1024


def affine_forward(
    x: Float[Tensor, "b t d"], log_scale: Float[Tensor, "b t d"], shift: Float[Tensor, "b t d"]
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, " b"]]:
    """As `labcore.kernels.affine.affine_forward` on tensors of one dtype; it can be differentiated once."""
    return _Affine.apply(x, log_scale, shift)


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, log_scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        x, log_scale, shift = x.contiguous(), log_scale.contiguous(), shift.contiguous()
        images, values = len(x), x.shape[1] * x.shape[2]
        chunks = triton.cdiv(values, CHUNK)
        z, sums = torch.empty_like(x), x.new_empty(images, chunks)
        with torch.cuda.device_of(x):
            _forward[(images, chunks)](x, log_scale, shift, z, sums, values, CHUNK=CHUNK)
        ctx.save_for_backward(z, log_scale)
        return z, -sums.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        arguments = (grad_z.contiguous(), grad_log_det.contiguous(), *ctx.saved_tensors)
        gradients = dispatch.by_twin("affine_triton", "affine_backward", *arguments)
        grad_x, grad_log_scale = affine_backward_reference(*arguments) if gradients is None else gradients
        return grad_x, grad_log_scale, -grad_x


def affine_backward(grad_z: Tensor, grad_log_det: Tensor, z: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and log_scale (b, t, d) from those of z (b, t, d) and log_det (b,), all contiguous."""
    images, values = len(z), z.shape[1] * z.shape[2]
    grad_x, grad_log_scale = torch.empty_like(z), torch.empty_like(z)
    grid = (images, triton.cdiv(values, CHUNK))
    with torch.cuda.device_of(z):
        _backward[grid](grad_z, grad_log_det, z, log_scale, grad_x, grad_log_scale, values, CHUNK=CHUNK)
    return grad_x, grad_log_scale


def affine_backward_reference(
    grad_z: Tensor, grad_log_det: Tensor, z: Tensor, log_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """As `affine_backward`, by torch: for a GPU on which the forward kernel compiles and the backward one does not."""
    return grad_z * torch.exp(-log_scale), -grad_z * z - grad_log_det[:, None, None]


@triton.jit
def _forward(x, log_scale, shift, z, sums, values, CHUNK: tl.constexpr):
    image, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    within = chunk * CHUNK + tl.arange(0, CHUNK)
    at, inside = image * values + within, within < values
    a = tl.load(log_scale + at, mask=inside, other=0.0)
    moved = tl.load(x + at, mask=inside, other=0.0) - tl.load(shift + at, mask=inside, other=0.0)
    tl.store(z + at, moved * tl.exp(-a), mask=inside)
    tl.store(sums + image * tl.num_programs(1) + chunk, tl.sum(a, axis=0))


@triton.jit
def _backward(grad_z, grad_log_det, z, log_scale, grad_x, grad_log_scale, values, CHUNK: tl.constexpr):
    image, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    within = chunk * CHUNK + tl.arange(0, CHUNK)
    at, inside = image * values + within, within < values
    g = tl.load(grad_z + at, mask=inside, other=0.0)
    a = tl.load(log_scale + at, mask=inside, other=0.0)
    by_log_det = tl.load(grad_log_det + image)
    tl.store(grad_x + at, g * tl.exp(-a), mask=inside)
    tl.store(grad_log_scale + at, -g * tl.load(z + at, mask=inside, other=0.0) - by_log_det, mask=inside)
