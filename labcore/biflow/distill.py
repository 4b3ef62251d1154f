"""Strategies that teach a student (BiFlow): the compared states, their distance, and its weight.

    naive                  the image alone:                       D(x, x')
    hidden-alignment       every block's state, through a head:   D(x, x') + mean_i D(x^i, phi_i(h^i)) (equation 2: a sum)
    hidden-distillation    the same, for a model whose next block sees only the state (handover "state")

Distances are kept for each image and term, so each can be weighted by its own size (equation 7).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def squared_errors(
    states: Sequence[Float[Tensor, "b t d"]], targets: Sequence[Float[Tensor, "b t d"]], scales: Float[Tensor, "s b"]
) -> list[Float[Tensor, " b"]]:
    """Return the mean squared error of each state of each image, both divided by its scale; in float32 or wider."""
    return [
        ((_wide(state) - _wide(target)) / scale[:, None, None]).square().mean((1, 2))
        for state, target, scale in zip(states, targets, scales, strict=True)
    ]


def _wide(state: Tensor) -> Tensor:
    return state.to(torch.promote_types(state.dtype, torch.float32))


def adaptive(distance: Float[Tensor, " b"], power: float, offset: float) -> Float[Tensor, " b"]:
    """Return sg((D + c)^-p) D, equation 7. With p = 1 the gradient does not depend on the scale of the compared states."""
    return distance if power == 0 else distance * (distance.detach() + offset).pow(-power)


def check_strategy(strategy: str, handover: str) -> None:
    """Raise ValueError unless the model hands over what the strategy needs."""
    needed = "state" if strategy == "hidden-distillation" else "hidden"
    if handover != needed:
        raise ValueError(
            f"strategy {strategy!r} needs a model with handover {needed!r}, and it is {handover!r}; set model.handover"
        )
