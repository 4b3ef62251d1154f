"""Figures of pictures of two pixels, which are points of a plane: densities, points, arrows and mapped lattices.

Points are tensors of n pairs of any shape, such as pictures (n, 1, 1, 2) and tokens (n, 2, 1).
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
LONGEST = 0.3
"""Length of the longest arrow if arrows are enlarged, relative to the half width of the axes."""


def mesh(side: int, reach: float) -> Float[Tensor, "n 2"]:
    """Return side x side points (n, 2) of the square [-reach, reach]^2; the second value changes fastest."""
    along = torch.linspace(-reach, reach, side)
    return torch.cartesian_prod(along, along)


@_styled
def heat(
    found: Mapping[str, Float[Tensor, " n"]],
    reach: float,
    label: str,
    axes_of: tuple[str, str] = PIXELS,
    ring: float | None = None,
) -> Figure:
    """Draw nonnegative values on a `mesh`, one panel for each name, with one colour scale of their square roots.

    Args:
        found: name -> values (n,) at the points of the mesh.
        reach: half width of the mesh.
        label: label of the colour scale.
        axes_of: labels of both axes.
        ring: radius of a dashed circle around 0; default None.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Circle

    figure, panels = _panels(found, axes_of)
    scale = PowerNorm(0.5, vmin=0, vmax=max(float(values.max()) for values in found.values()))
    for axes, values in zip(panels, found.values(), strict=True):
        side = round(len(values) ** 0.5)
        pixels = values.view(side, side).mT.cpu().numpy()
        shown = axes.imshow(pixels, origin="lower", extent=[-reach, reach] * 2, cmap="viridis", norm=scale)
        if ring is not None:
            axes.add_patch(Circle((0, 0), ring, fill=False, color="white", linestyle="--"))
    figure.colorbar(shown, ax=panels, label=label, shrink=0.8)
    return figure


@_styled
def clouds(found: Mapping[str, tuple[Tensor, Int[Tensor, " n"]]], reach: float, classes: Sequence[str]) -> Figure:
    """Draw points with a colour and marker for each class, one panel for each name, and write how many points are outside.

    found: name -> (points, labels (n,)). reach: half width of the axes.
    """
    figure, panels = _panels(found, PIXELS)
    for axes, (points, labels) in zip(panels, found.values(), strict=True):
        at = _pairs(points)
        for number, (name, marker) in enumerate(zip(classes, cycle(MARKERS))):
            axes.plot(*at[labels.cpu() == number].T, marker, markersize=2.5, alpha=0.6, label=name)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        if outside := int((at.abs().amax(1) > reach).sum()):
            axes.text(0.02, 0.02, f"{outside} of {len(at)} outside", transform=axes.transAxes, fontsize=11)
    panels[-1].legend(loc="upper right", markerscale=3)
    return figure


@_styled
def arrows(
    found: Mapping[str, tuple[Tensor, Tensor]], reach: float, enlarged: bool = True, one_scale: bool = True
) -> Figure:
    """Draw an arrow from each point, one panel for each name.

    Args:
        found: name -> (points, moves).
        reach: half width of the axes.
        enlarged: True (default) draws the longest move with length LONGEST x reach; False draws moves in their own length.
        one_scale: True (default) uses one scale for all panels; False uses one for each panel.
    """
    figure, panels = _panels(found, PIXELS)
    lengths = [float(_pairs(moves).norm(dim=1).max()) for _, moves in found.values()]
    for axes, (points, moves), own in zip(panels, found.values(), lengths, strict=True):
        at, move = _pairs(points), _pairs(moves)
        longest = max(lengths) if one_scale else own
        scale = longest / (LONGEST * reach) if enlarged else 1.0
        drawn = dict(angles="xy", scale_units="xy", scale=scale, width=0.004)
        axes.quiver(*at.T.numpy(), *move.T.numpy(), color=style.COLOURS["blue"], **drawn)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        axes.title.set_fontsize(12)
    return figure


@_styled
def lattices(found: Mapping[str, Tensor], side: int, axes_of: tuple[str, str] = PIXELS) -> Figure:
    """Draw a `mesh` of side x side points and its images under maps, as lines, one panel for each name, with its own scale."""
    figure, panels = _panels(found, axes_of, most=4, share=False)
    for axes, points in zip(panels, found.values(), strict=True):
        lines = _pairs(points).view(side, side, 2)
        for number in range(side):
            shade = number / (side - 1)
            axes.plot(*lines[number].T, color=style.between(shade), linewidth=1.0, label="_first")
            axes.plot(
                *lines[:, number].T,
                color=style.COLOURS["red"],
                alpha=0.35 + 0.5 * shade,
                linewidth=1.0,
                label="_second",
            )
    panels[0].lines[0].set_label("lines of constant first value, dark to light")
    panels[0].lines[1].set_label("lines of constant second value")
    figure.legend(handles=panels[0].lines[:2], loc="outside lower center", ncols=2)
    return figure


def _pairs(points: Tensor) -> Float[Tensor, "n 2"]:
    return points.detach().reshape(-1, 2).cpu().float()


def _panels(
    found: Mapping[str, object], axes_of: tuple[str, str], most: int = 6, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """Make a figure with a square panel for each name, at most `most` in a row."""
    columns = min(most, len(found))
    rows = -(-len(found) // columns)
    side = min(4.2, style.WIDTH / columns)
    figure = _figure((style.WIDTH if len(found) > 1 else 1.3 * side, rows * (side + 0.6)))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    for row in panels:
        row[0].set_ylabel(axes_of[1])
    panels = list(panels.flatten())
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, found, strict=False):
        axes.set_aspect("equal", adjustable="datalim" if not share else "box")
        axes.grid(False)
        axes.set(title=name, xlabel=axes_of[0])
    return figure, panels[: len(found)]
