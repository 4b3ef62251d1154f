"""Frames for sliders: figures of one state, token or layer.

All frames of a slider have the same size and the same axes, so only the data moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from labcore.viz import style
from labcore.viz.figures import GAP, SMALL, STATE_RANGE, TALLEST, _bare, _figure, _fitted, _sheet, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXACT = 1e-3
"""A token counts as solved if its error is at most this; our choice."""


@_styled
def state(
    states: Mapping[str, Float[Tensor, "b c h w"]],
    number: int,
    rows: int = 4,
    columns: int = 6,
    image_names: Sequence[str] = (),
) -> Figure:
    """Draw one state between image and noise: its images, a histogram of its values, and the RMS of all states.

    Args:
        states: {name: state as images}, from the image to z. The first is shown on [-1, 1], the others on [-3, 3].
        number: index of the state, from 0.
        rows: rows of images; default 4.
        columns: columns of images; default 6.
        image_names: names under the images, for example classes; default none.
    """
    names = list(states)
    x = states[names[number]]
    columns = min(columns, len(x))
    limit = 1.0 if number == 0 else STATE_RANGE
    figure = _figure((style.WIDTH, 4.0))
    pictures, histogram, sizes = figure.subplots(1, 3, width_ratios=[columns / rows * 1.2, 1.2, 1.2])
    grey, named = x[: rows * columns].clamp(-limit, limit) / limit, image_names[: rows * columns]
    _sheet(pictures, grey, columns, (), (), named, 3.8 / columns)
    pictures.set_xlabel(f"{names[number]}: grey scale from black {-limit:g} to white {limit:g}")
    densities = {name: _density(one) for name, one in states.items()}
    top = max(float(density.max()) for density in densities.values())  # the same axis for all of them
    _histogram(histogram, densities[names[number]], 1.1 * top)
    rms = [float(one.double().square().mean().sqrt()) for one in states.values()]
    sizes.plot(range(len(rms)), rms, color=style.COLOURS["blue"], marker="o", markersize=5)
    sizes.plot(number, rms[number], color=style.COLOURS["red"], marker="o", markersize=11)
    sizes.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
    sizes.set_xticks(range(len(names)), names)
    sizes.set(title=f"RMS of {names[number]}: {rms[number]:.2f}", ylim=(0, 1.15 * max(*rms, 1.0)))
    return figure


@_styled
def beside_exact(
    exact: Sequence[Float[Tensor, "b c h w"]],
    learned: Sequence[Float[Tensor, "b c h w"]],
    names: Sequence[str],
    number: int,
    columns: int = 8,
    image_names: Sequence[str] = (),
) -> Figure:
    """Draw a state of the exact inverse above the student's state, and the error of all states relative to the exact RMS.

    Args:
        exact: states of the exact inverse, as images, in sampling order.
        learned: states of the student, as images.
        names: names of the states.
        number: index of the state, from 0.
        columns: number of images; default 8.
        image_names: names above the columns, for example classes; default none.
    """
    columns = min(columns, len(exact[number]))
    figure = _figure((style.WIDTH, 3.6))
    pictures, axes = figure.subplots(1, 2, width_ratios=[2.2, 1])
    both = [exact[number][:columns], learned[number][:columns]]
    limit = 1.0 if number == len(names) - 1 else STATE_RANGE
    rows = torch.cat([one.clamp(-limit, limit) / limit for one in both])
    _sheet(pictures, rows, columns, ("exact", "student"), _fitted(image_names[:columns], 5.8 / columns))
    pictures.tick_params(axis="x", labelsize=SMALL)
    pictures.set_xlabel(f"{names[number]}: grey scale from black {-limit:g} to white {limit:g}")
    off = [
        float(((a - b).double().square().mean() / a.double().square().mean()).sqrt())
        for a, b in zip(exact, learned, strict=True)
    ]
    axes.plot(range(len(off)), off, color=style.COLOURS["blue"], marker="o", markersize=5)
    axes.plot(number, off[number], color=style.COLOURS["red"], marker="o", markersize=11)
    axes.set_xticks(range(len(names)), names, fontsize=10)
    axes.set(title=f"{names[number]}: error {off[number]:.0%} of the RMS", ylim=(0, 1.15 * max(*off, 1e-6)))
    return figure


@_styled
def solving(
    serial: Float[Tensor, "b c h w"],
    parallel: Float[Tensor, "b c h w"],
    known: tuple[Bool[Tensor, "h w"], Bool[Tensor, "h w"]],
    errors: Float[Tensor, " t"],
    steps: tuple[int, int],
    block: int,
    image_names: Sequence[str] = (),
) -> Figure:
    """Draw a block's inverse after some steps token by token, and after some Jacobi sweeps over all tokens.

    Args:
        serial: state of the sequential inverse as images, shown on [-3, 3].
        parallel: state of the Jacobi sweeps as images, shown on [-3, 3].
        known: the pixels that each method has solved; others are tinted.
        errors: error of each token of the sweeps, the largest over images and values, in the block's own order.
        steps: number of steps and of sweeps.
        block: number of the block, from 1.
        image_names: names under the images, for example classes; default none.
    """
    figure = _figure((style.WIDTH, 3.9))
    left, right, axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.3])
    ways = (f"token by token:\n{steps[0]} steps", f"Jacobi:\n{steps[1]} sweeps over all tokens")
    for panel, x, solved, name in zip((left, right), (serial, parallel), known, ways, strict=True):
        columns = math.ceil(math.sqrt(len(x)))
        grey = x.clamp(-STATE_RANGE, STATE_RANGE) / STATE_RANGE
        tint = torch.tensor([0.75, 0.85, 1.0])[:, None, None]  # for pixels that are not solved yet
        shaded = torch.where(solved, grey, (grey.expand(-1, 3, -1, -1) + 1) * tint - 1)
        _sheet(panel, shaded, columns, (), (), image_names, 2.2 / columns)
        panel.set_title(name)
        panel.set_xlabel(f"{float(solved.double().mean()):.0%} solved")
    colours = [style.COLOURS["blue"] if e <= EXACT else style.COLOURS["sky"] for e in errors.tolist()]
    axes.bar(range(1, len(errors) + 1), errors.clamp_min(1e-8).tolist(), width=1.0, color=colours)
    axes.axvline(steps[0] + 1.5, color="black", linewidth=0.8, linestyle="--")
    axes.axhline(EXACT, color="black", linewidth=0.8, linestyle=":")
    axes.set(yscale="log", ylim=(1e-8, 1e1), xlabel="token, in the block's own order", title=f"block {block}, Jacobi")
    axes.set_ylabel("largest error of a value")
    return figure


@_styled
def similarity(
    x: Float[Tensor, "b c h w"],
    maps: Mapping[str, Float[Tensor, "b g g"]],
    token: tuple[int, int],
    title: str = "",
    image_names: Sequence[str] = (),
) -> Figure:
    """Draw images with a marked token, and for each source of features the cosine of this token with all others of its image.

    maps: source -> cosines (b, g, g). token: (row, column) from 0.
    """
    side, grid = x.shape[-1], next(iter(maps.values())).shape[-1]
    each = min(0.8 * style.WIDTH / len(x), TALLEST / (1 + len(maps)))
    figure = _figure((style.WIDTH, each * (1 + len(maps)) + 0.5))
    above, *rows = figure.subplots(1 + len(maps), 1)
    _sheet(above, x, len(x), ("image",), _fitted(image_names, each))
    above.tick_params(axis="x", labelsize=SMALL)
    shown = None
    for axes, (name, found) in zip(rows, maps.items(), strict=True):
        shown = axes.imshow(_strip(found, side), vmin=-1, vmax=1, cmap="viridis")
        axes.set_yticks([(side - 1) / 2], [name])
        axes.set_xticks([])
        _bare(axes)
    for axes in (above, *rows):
        for column in range(len(x)):
            _mark(axes, token, side / grid, float(column * (side + GAP)))
    figure.suptitle(title)
    figure.colorbar(shown, ax=rows, label="cosine", shrink=0.8)
    return figure


EDGES = torch.linspace(-4, 4, 65)
"""Edges of the bins of histograms."""


def _density(x: Tensor) -> Float[Tensor, " bins"]:
    counts = torch.histogram(x.detach().double().cpu().flatten(), EDGES.double()).hist
    return counts / x.numel() / (EDGES[1] - EDGES[0])


def _histogram(axes: Axes, density: Float[Tensor, " bins"], top: float) -> None:
    """Draw the density of values, with the standard normal density for comparison."""
    axes.stairs(density.tolist(), EDGES.tolist(), fill=True, color="#9DC3E6")
    middle = torch.linspace(-4, 4, 200)
    normal = torch.exp(-middle.square() / 2) / math.sqrt(2 * math.pi)
    axes.plot(middle.tolist(), normal.tolist(), color="black", linewidth=1.2, linestyle="--", label="standard normal")
    axes.set(xlabel="value", title="density of values", ylim=(0, top), xlim=(-4, 4))
    axes.legend(loc="upper right", fontsize=10)


def _strip(maps: Float[Tensor, "b g g"], side: int) -> Any:
    """Put maps next to one another, each `side` pixels wide, with empty pixels between them."""
    pixels = F.interpolate(maps[:, None].float(), (side, side))[:, 0]
    padded = F.pad(pixels, (0, GAP), value=math.nan)
    return padded.permute(1, 0, 2).flatten(1)[:, :-GAP].numpy()


def _mark(axes: Axes, token: tuple[int, int], side: float, left: float) -> None:
    """Draw a square around the token (row, column) of an image that begins at `left`; tokens are `side` pixels wide."""
    from matplotlib.patches import Rectangle

    row, column = token
    corner = (left + column * side - 0.5, row * side - 0.5)
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=style.COLOURS["red"], linewidth=2))
