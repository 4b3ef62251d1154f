"""Figures of pictures of two pixels, each a point of the plane: densities, clouds, arrows, and a lattice that is bent.

Every figure is a row of panels with one scale. Points come as tensors whose last values, flattened, are pairs: pictures
(n, 1, 1, 2) and tokens (n, 2, 1) alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labcore.viz import style
from labcore.viz.alignment import MARKERS
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS = ("first pixel", "second pixel")
NOISE = ("first value of z", "second value of z")


def mesh(side: int, reach: float) -> Float[Tensor, "n 2"]:
    """side x side points of the square [-reach, reach]^2, the second value running fastest."""
    along = torch.linspace(-reach, reach, side)
    return torch.cartesian_prod(along, along)


@_styled
def heat(
    found: Mapping[str, Float[Tensor, "n"]],
    reach: float,
    label: str,
    axes_of: tuple[str, str] = PIXELS,
    signed: bool = False,
) -> Figure:
    """Values on a `mesh`, a panel a name, with one colour scale; a signed one has white at 0."""
    figure, panels = _panels(found, axes_of)
    largest = max(float(values.abs().max()) for values in found.values())
    shades = dict(cmap="RdBu_r", vmin=-largest, vmax=largest) if signed else dict(cmap="viridis", vmin=0, vmax=largest)
    for axes, values in zip(panels, found.values(), strict=True):
        side = round(len(values) ** 0.5)
        shown = axes.imshow(
            values.view(side, side).mT.cpu().numpy(), origin="lower", extent=[-reach, reach] * 2, **shades
        )
    figure.colorbar(shown, ax=panels, label=label, shrink=0.8)
    return figure


@_styled
def clouds(found: Mapping[str, tuple[Tensor, Int[Tensor, "n"]]], reach: float, classes: Sequence[str]) -> Figure:
    """Points and their classes, a panel a name; colours and markers tell the classes."""
    figure, panels = _panels(found, PIXELS)
    for axes, (points, labels) in zip(panels, found.values(), strict=True):
        at = _pairs(points)
        for number, (name, marker) in enumerate(zip(classes, cycle(MARKERS))):
            axes.plot(*at[labels.cpu() == number].T, marker, markersize=2.5, alpha=0.6, label=name)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    panels[-1].legend(loc="upper right", markerscale=3)
    return figure


@_styled
def arrows(found: Mapping[str, tuple[Tensor, Tensor]], reach: float, longest: float = 0.3) -> Figure:
    """An arrow from each point, a panel a name: (points, moves). The longest move of all is drawn `longest` long."""
    figure, panels = _panels(found, PIXELS)
    largest = max(float(_pairs(moves).norm(dim=1).max()) for _, moves in found.values())
    for axes, (points, moves) in zip(panels, found.values(), strict=True):
        at, move = _pairs(points), _pairs(moves)
        drawn = dict(angles="xy", scale_units="xy", scale=largest / (longest * reach), width=0.004)
        axes.quiver(*at.T.numpy(), *move.T.numpy(), color=style.COLOURS["blue"], **drawn)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    return figure


@_styled
def lattices(found: Mapping[str, Tensor], side: int, axes_of: tuple[str, str] = PIXELS) -> Figure:
    """A `mesh` of side x side points and where maps take it, a panel a name: lines of the mesh stay connected."""
    figure, panels = _panels(found, axes_of)
    for axes, points in zip(panels, found.values(), strict=True):
        lines = _pairs(points).view(side, side, 2)
        for number in range(side):
            shade = number / (side - 1)
            axes.plot(*lines[number].T, color=style.between(shade), linewidth=1.0)
            axes.plot(*lines[:, number].T, color=style.COLOURS["red"], alpha=0.35 + 0.5 * shade, linewidth=1.0)
    return figure


def _pairs(points: Tensor) -> Float[Tensor, "n 2"]:
    return points.detach().reshape(-1, 2).cpu().float()


def _panels(found: Mapping[str, object], axes_of: tuple[str, str]) -> tuple[Figure, list[Axes]]:
    side = min(4.2, style.WIDTH / len(found))
    figure = _figure((style.WIDTH if len(found) > 1 else 1.3 * side, side + 0.6))
    panels = list(figure.subplots(1, len(found), squeeze=False, sharex=True, sharey=True)[0])
    for axes, name in zip(panels, found, strict=True):
        axes.set_aspect("equal")
        axes.grid(False)
        axes.set(title=name, xlabel=axes_of[0])
    panels[0].set_ylabel(axes_of[1])
    return figure, panels
