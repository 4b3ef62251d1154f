"""FSDP2: weights, gradients, optimizer and averaged weights sharded over the processes, for models that do not fit one device.

At the start each device holds the whole model and average for a moment, and the first one keeps a whole copy for
previews. Torch's `fully_shard` is used directly: accelerate's plugin would silently be DDP on a CPU. Everything that is
written or evaluated is gathered first. So a checkpoint has the same files as without sharding, and can be resumed on any
number of processes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


def shard_(trained: nn.Module, model: nn.Module, ema: nn.Module, device_type: str) -> None:
    """Shard in place `trained`, which holds `model`, block by block, and likewise the averaged copy `ema`."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device_type, (torch.distributed.get_world_size(),))
    for root, within in ((trained, model), (ema, ema)):
        for block in getattr(within, "blocks", ()):
            fully_shard(block, mesh=mesh)
        fully_shard(root, mesh=mesh)


def whole(value: Tensor) -> Tensor:
    """Gather a tensor from all processes. Every process must call it."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def own(value: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds."""
    from torch.distributed.tensor import DTensor

    return value.to_local() if isinstance(value, DTensor) else value


def whole_state(state: Any, keep: bool) -> Any:
    """Return a state dict, of a module or an optimizer, with whole tensors on the CPU if `keep`, else None.

    Every process must call it.
    """
    if isinstance(state, dict):
        return {key: whole_state(value, keep) for key, value in state.items()}
    if isinstance(state, Tensor):
        value = whole(state.detach())
        return value.cpu() if keep else None
    return state


def shared_out(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """Shard a whole optimizer state, each tensor like its parameter."""
    from torch.distributed.tensor import distribute_tensor

    slots = {
        i: {
            name: distribute_tensor(value.to(parameters[i].device), parameters[i].device_mesh, parameters[i].placements)
            if isinstance(value, Tensor) and value.shape == parameters[i].shape and value.dim()
            else value
            for name, value in values.items()
        }
        for i, values in state["state"].items()
    }
    return {**state, "state": slots}


class Whole(NamedTuple):
    """A gathered model: `model` is one that is not sharded; fill it with `state` and use it, or save it, at once."""

    model: nn.Module
    state: dict[str, Tensor]

    def fill(self) -> nn.Module:
        """Return the model with these weights, in eval mode."""
        self.model.load_state_dict(self.state)
        return self.model.eval()

    def save_pretrained(self, path) -> None:
        """Save as the model itself does."""
        self.fill().save_pretrained(path)
