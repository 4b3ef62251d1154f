"""One block of the generative pass, rebuilt in parallel from its cached state, with the gradient of the inverse.

A block maps v to u = f(v) = (v - shift(v)) exp(-log_scale(v)). Generation solves v = Phi(v, u) = u exp(log_scale(v)) +
shift(v) for v. The cache holds the solution, so the values need no computation, and only the gradient does. With dv = g
and the implicit function theorem it is

    lambda = g + (dPhi/dv)^T lambda,    w = exp(log_scale) lambda,    du = w,    dtheta = -(df/dtheta)^T w

dPhi/dv is strictly causal, so the sum lambda = g + N^T g + (N^T)^2 g + ... is finite: t - 1 sweeps are exact for t
tokens. FlowBack's stop-gradient on the context (arXiv 2511.22345, eq. 9) uses no sweep, lambda = g. Since df/dv =
exp(-log_scale) (1 - dPhi/dv), a sweep is one product with the Jacobian of the block's ordinary forward pass,

    (dPhi/dv)^T lambda = lambda - (df/dv)^T (exp(log_scale) lambda)

So only this pass, made once on the cached state, is differentiated. The papers give neither the sweeps nor this form;
both are our own derivation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from labcore.align.protocol import Block
from labcore.flows.metablock import Labels


def rebuild(
    block: Block,
    cached: Float[Tensor, "b t d"],
    z: Float[Tensor, "b t d"],
    y: Labels = None,
    layers: Iterable[int] = (),
    sweeps: int = 0,
) -> tuple[Float[Tensor, "b t d"], dict[int, Float[Tensor, "b t width"]]]:
    """Return the block's input as generated from its output `z`, and the hiddens {layer: (b, t, width)} computed on it.

    cached: the input whose forward pass gave `z`. The returned state has its values, and no gradient reaches it. Gradient
    reaches `z` and, as in ordinary backpropagation, the block's parameters. `sweeps` is the number of adjoint sweeps: 0
    omits the dependence of later tokens on earlier ones, t - 1 includes all of it. The time of the backward pass is
    linear in `sweeps`. Only first derivatives exist.
    """
    leaf = cached.detach().requires_grad_()
    out = block(leaf, y, layers)
    state, *hiddens = _Rebuilt.apply(sweeps, leaf, out.log_scale, z, out.z, *out.hiddens.values())
    return state, dict(zip(out.hiddens, hiddens, strict=True))


class _Rebuilt(torch.autograd.Function):
    """Values: the cached state and the hiddens of the forward pass f on it. Gradient: as if generated from z.

    The gradient of f's own outputs is passed to f's graph, which takes it to the parameters.
    """

    @staticmethod
    def forward(ctx, sweeps, leaf, log_scale, z, forward_z, *hiddens):
        ctx.sweeps = sweeps
        ctx.save_for_backward(leaf, log_scale, forward_z, *hiddens)
        ctx.set_materialize_grads(False)
        return leaf.detach(), *(h.detach() for h in hiddens)

    @staticmethod
    @once_differentiable
    def backward(ctx, state_grad, *hidden_grads):
        leaf, log_scale, forward_z, *hiddens = ctx.saved_tensors
        scale = log_scale.to(forward_z.dtype).exp()
        # g: the gradient at the state v, from the blocks below and from the hiddens that were computed on it
        g = torch.zeros_like(leaf) if state_grad is None else state_grad
        used = [i for i, grad in enumerate(hidden_grads) if grad is not None]
        if used:
            g = g + _transposed([hiddens[i] for i in used], [hidden_grads[i] for i in used], leaf)
        # lambda = g + (dPhi/dv)^T lambda, the product in the module's last formula
        adjoint = g
        for _ in range(ctx.sweeps):
            adjoint = g + adjoint - _transposed([forward_z], [scale * adjoint], leaf)
        w = scale * adjoint
        # du = w goes to z; f's own output gets -w, which f's graph takes to the parameters: dtheta = -(df/dtheta)^T w
        return None, None, None, w, -w, *hidden_grads


def _transposed(outputs: Sequence[Tensor], grads: Sequence[Tensor], leaf: Tensor) -> Tensor:
    """Return the transposed Jacobian of `outputs` with respect to `leaf`, times `grads`; the graph is kept for the next call.

    Computed as the gradient of a scalar: otherwise torch would import sympy, which takes seconds, to compare shapes.
    """
    with torch.enable_grad():
        product = sum((out * grad).sum() for out, grad in zip(outputs, grads, strict=True))
    return torch.autograd.grad(product, leaf, retain_graph=True)[0]
