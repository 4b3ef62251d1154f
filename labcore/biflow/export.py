"""A student as one graph that runs without labcore: torch.export's, for any batch size.

    export(zoo.load("fashion-biflow"), "inverse.pt2")
    images = torch.export.load("inverse.pt2").module()(z, y, w)   # needs torch alone

z (b, t, d) float32 noise in raster order, y (b,) int64 classes, -1 for none, w (b,) guidance; images (b, c, h, w), not clipped.
A model without classes takes only z, and a model without guidance as an input takes no w. The graph does not check values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labcore.biflow.model import BackwardModel
from labcore.files import replacing

MOST = 4096
"""Images of a batch, at most; our choice."""


class OnePass(nn.Module):
    """The pass without checks of values, which an exported graph cannot contain."""

    def __init__(self, model: BackwardModel):
        super().__init__()
        self.model = model

    def forward(
        self, z: Float[Tensor, "b t d"], y: Int[Tensor, " b"] | None = None, w: Float[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        return self.model.unchecked(z, y, w).x


def example_inputs(model: BackwardModel) -> dict[str, Tensor]:
    """Return z, y and w for two images, all zeros; without y or w if the model does not take them."""
    c, like = model.config, {"device": model.device, "dtype": model.dtype}
    inputs = {"z": torch.zeros(2, c.tokens, c.token_dim, **like)}
    if c.num_classes:
        inputs["y"] = torch.zeros(2, dtype=torch.int64, device=model.device)
        if c.max_guidance:
            inputs["w"] = torch.zeros(2, **like)
    return inputs


def exported(graph: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    """Return the module, in eval mode and without gradients, as torch.export's program for any batch size up to MOST.

    inputs: example of its arguments in their order; the first axis of each is the batch.
    """
    batch = torch.export.Dim("b", min=1, max=MOST)
    with torch.no_grad():
        return torch.export.export(
            graph.eval(), tuple(inputs.values()), dynamic_shapes=tuple({0: batch} for _ in inputs)
        )


def export(model: BackwardModel, path: str | Path) -> Path:
    """Write the model's pass to `path`, which must end in .pt2; ValueError for another ending."""
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"path was {path}; torch.export's files end in .pt2")
    graph = exported(OnePass(model), example_inputs(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new, open(new, "wb") as file:
        torch.export.save(graph, file)
    return path
