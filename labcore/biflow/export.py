"""A learned inverse as one graph that runs without labcore: torch.export's, for any batch size.

    export(zoo.load("fashion-biflow"), "inverse.pt2")
    images = torch.export.load("inverse.pt2").module()(z, y, w)   # needs torch alone

z (b, t, d) float32 noise in raster order, y (b,) int64 classes, -1 for none, w (b,) guidance; images (b, c, h, w), not clipped.
A model without classes takes z alone, and one that guidance is no input of takes no w. Values are not checked in there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labcore.biflow.model import BackwardModel
from labcore.files import replacing

MOST = 4096
"""Images of a batch, at most; our choice."""


class _OnePass(nn.Module):
    """The pass without checks of values, which an exported graph cannot contain."""

    def __init__(self, model: BackwardModel):
        super().__init__()
        self.model = model

    def forward(
        self, z: Float[Tensor, "b t d"], y: Int[Tensor, " b"] | None = None, w: Float[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        return self.model.unchecked(z, y, w).x


def export(model: BackwardModel, path: str | Path) -> Path:
    """Write the model's pass to `path`, which must end in .pt2; ValueError for another ending."""
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"path was {path}; torch.export's files end in .pt2")
    device, c = model.device, model.config
    z = torch.zeros(2, c.tokens, c.token_dim, device=device, dtype=model.dtype)
    given = [z]
    if c.num_classes:
        given.append(torch.zeros(2, dtype=torch.int64, device=device))
        if c.max_guidance:
            given.append(torch.zeros(2, device=device, dtype=model.dtype))
    batch = torch.export.Dim("b", min=1, max=MOST)
    with torch.no_grad():
        graph = torch.export.export(
            _OnePass(model).eval(), tuple(given), dynamic_shapes=tuple({0: batch} for _ in given)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new, open(new, "wb") as file:
        torch.export.save(graph, file)
    return path
