"""The projector from a flow's hidden width to an encoder's; a part of the objective and its checkpoint, not of the flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from labcore.sites import Site


class Projector(nn.Module):
    """MLP on each token: Linear, SiLU, Linear, SiLU, Linear, from `width` over `hidden` and `hidden` to `out` values.

    FlowBack's widths are 1024, 1024, 1024, 768. Weights start Xavier-uniform and biases at zero, as in REPA.
    """

    def __init__(self, width: int, hidden: int, out: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, out)
        )
        for layer in self.layers[::2]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Float[Tensor, "b t width"]) -> Float[Tensor, "b t out"]:
        return self.layers(h)


class Heads(nn.Module):
    """One projector for all sites (FlowBack's `num_proj=1`), or one for each site with sharing "per-site"."""

    def __init__(
        self,
        sites: Sequence[Site],
        width: int,
        hidden: int,
        out: int,
        sharing: Literal["shared", "per-site"] = "shared",
    ):
        super().__init__()
        count = 1 if sharing == "shared" else len(sites)
        self.projectors = nn.ModuleList(Projector(width, hidden, out) for _ in range(count))
        self._of = {site: i % count for i, site in enumerate(sites)}

    def forward(self, hiddens: dict[Site, Tensor]) -> dict[Site, Tensor]:
        """Map {site: (b, t, width)} to {site: (b, t, out)}."""
        return {site: self.projectors[self._of[site]](h) for site, h in hiddens.items()}
