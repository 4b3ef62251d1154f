"""Figures of solving a flow's blocks by sweeps: errors of tokens, convergence, time, and the effect of the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from labcore.viz import style
from labcore.viz.alignment import LINES, MARKERS
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR = 1e-7
"""Smallest error that is drawn; float32 cannot resolve smaller errors of values around 1."""


@_styled
def token_errors(errors: Mapping[int, Float[Tensor, "sweeps t"]], title: str = "") -> Figure:
    """Draw the error of each token (columns) after each sweep (rows) on a log scale, one panel for each block.

    On the dashed line, token number and sweep number are equal: tokens on the line and to its left are exact.

    errors: block -> (sweeps, t), with tokens in the block's own order.
    """
    from matplotlib.colors import LogNorm

    longest = max(len(rows) for rows in errors.values())
    figure = _figure((style.WIDTH, 1.6 + min(4.5, 0.16 * longest)))
    panels = figure.subplots(1, len(errors), squeeze=False, sharey=True)[0]
    norm = LogNorm(FLOOR, max(1.0, max(float(rows.max()) for rows in errors.values())))
    for axes, (block, rows) in zip(panels, errors.items(), strict=True):
        image = axes.imshow(
            rows.clamp(min=FLOOR).numpy(), norm=norm, cmap="viridis", aspect="auto", interpolation="nearest"
        )
        t = rows.shape[1]
        axes.plot(
            [1, min(len(rows), t - 1)], [0, min(len(rows), t - 1) - 1], color="white", linestyle="--", linewidth=1.2
        )
        axes.set(xlabel="token, in the block's order", title=f"block {block}", xlim=(-0.5, t - 0.5))
        axes.set_ylim(longest - 0.5, -0.5)
        axes.grid(False)
    panels[0].set_ylabel("sweep")
    ticks = range(0, longest, max(1, longest // 6))
    panels[0].set_yticks(ticks, [str(tick + 1) for tick in ticks])
    figure.colorbar(image, ax=panels, label="largest |error|")
    figure.suptitle(title)
    return figure


@_styled
def convergence(found: Mapping[int, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draw the change by each sweep, and the error after it, on log scales, one line for each block.

    found: block -> (changes, errors), with one value for each sweep.
    """
    figure = _figure((style.WIDTH, 4.4))
    panels = figure.subplots(1, 2, sharey=True)
    colours = [style.between(i / max(1, len(found) - 1)) for i in range(len(found))]
    for axes, which, title in zip(
        panels, (0, 1), ("largest change by the sweep", "largest error after it"), strict=True
    ):
        for (block, values), colour, marker in zip(sorted(found.items()), colours, cycle(MARKERS)):
            ys = [max(FLOOR, value) for value in values[which]]
            axes.plot(range(1, len(ys) + 1), ys, color=colour, marker=marker, markersize=4, label=f"block {block}")
        axes.set(yscale="log", xlabel="sweep", title=title)
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside right upper", fontsize=10)
    return figure


@_styled
def cost(found: Mapping[str, tuple[float, float]], tolerance: float | None = None) -> Figure:
    """Draw error against time on log scales, one point for each way; exact ways are drawn at FLOOR.

    found: way -> (seconds, largest error). tolerance: drawn as a dashed line; default None.
    """
    figure = _figure((style.WIDTH, 4.8))
    axes = figure.subplots()
    for (name, (seconds, error)), colour, marker in zip(found.items(), cycle(style.COLOURS.values()), cycle(MARKERS)):
        axes.plot(1000 * seconds, max(FLOOR, error), marker, color=colour, markersize=9, label=name)
    if tolerance is not None:
        axes.axhline(tolerance, color="black", linewidth=0.8, linestyle="--")
    style.log_scale(axes, [1000 * seconds for seconds, _ in found.values()], "x")
    axes.set(yscale="log", xlabel="milliseconds for the batch", ylabel="largest error of a value")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=10)
    return figure


@_styled
def sweeps_by_distance(
    found: Mapping[float, Sequence[int]], blocks: Sequence[int], points: Mapping[str, tuple[float, int]]
) -> Figure:
    """Draw the number of sweeps against the distance of the start from the solution, one line for each block.

    found: distance (RMS) -> sweeps of each block. points: name -> (distance, sweeps) of further starts.
    """
    figure = _figure((style.WIDTH, 4.2))
    axes = figure.subplots()
    for i, (block, line) in enumerate(zip(blocks, cycle(LINES), strict=False)):
        sweeps = [values[i] for values in found.values()]
        colour = style.between((block - 1) / max(1, max(blocks) - 1))
        axes.plot(list(found), sweeps, color=colour, linestyle=line, marker="o", markersize=4, label=f"block {block}")
    for (name, (distance, sweeps)), marker in zip(points.items(), cycle(MARKERS[1:])):
        axes.plot(distance, sweeps, marker, color="black", markersize=9, label=name)
    axes.set(xscale="log", xlabel="distance of the start from the solution (RMS)", ylabel="sweeps")
    axes.set_ylim(bottom=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=10)
    return figure
