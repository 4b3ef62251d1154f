"""Figures of alignment: how far gradients reach, what the stop-gradient leaves out, whether both losses agree, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from labcore.viz import style
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")


@_styled
def reach(
    norms: Mapping[str, Sequence[float]], sites: Mapping[str, Sequence[tuple[int, int]]], title: str = ""
) -> Figure:
    """Gradient norm by direction (rows) and block (columns) as shares of the row's largest; a ring marks the sites' blocks.

    norms: direction -> `labcore.align.reach.gradient_reach`. Blocks without any gradient are left white.
    """
    import numpy as np

    values = np.array([[v or np.nan for v in row] for row in norms.values()], dtype=float)
    shares = values / np.nanmax(values, axis=1, keepdims=True)
    figure = _figure((style.WIDTH, 1.6 + 0.55 * len(norms)))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for r, name in enumerate(norms):
        marked = {block for block, _ in sites[name]}
        for b in range(values.shape[1]):
            text = "0" if np.isnan(shares[r, b]) else f"{shares[r, b]:.2g}"
            axes.text(b, r, text, ha="center", va="center", color="black", fontsize=12)
            if b + 1 in marked:
                ring = dict(fill=False, edgecolor=style.COLOURS["red"], linewidth=2.5)
                axes.add_patch(_rectangle((b - 0.46, r - 0.42), 0.92, 0.84, ring))
    image.set_clim(0, 1.4)
    axes.set_xticks(range(values.shape[1]), [str(b + 1) for b in range(values.shape[1])])
    axes.set_yticks(range(len(norms)), list(norms))
    axes.set_xlabel("block (1 touches the image, the last one z); red: aligned")
    axes.set_title(title or "gradient of the alignment in each block, as a share of the row's largest")
    axes.grid(False)
    return figure


@_styled
def sweeps(cosines: Mapping[str, Mapping[int, float]], seconds: Mapping[int, float] | None = None) -> Figure:
    """Cosine to the full gradient of generation against adjoint sweeps, a line for each name; what sweeps cost beside it."""
    figure = _figure((style.WIDTH, 3.8))
    left, *rest = figure.subplots(1, 2 if seconds else 1, squeeze=False)[0]
    for (name, found), line, marker in zip(cosines.items(), cycle(LINES), cycle(MARKERS)):
        left.plot(list(found), list(found.values()), linestyle=line, marker=marker, label=name)
    left.set_xlabel("adjoint sweeps (0: the paper's stop-gradient)")
    left.set_ylabel("cosine to the full gradient")
    left.set_ylim(min(0.0, left.get_ylim()[0]), 1.03)
    left.legend()
    for axes in rest:
        assert seconds is not None
        first = next(iter(seconds.values()))
        axes.plot(list(seconds), [value / first for value in seconds.values()], "o-", color=style.COLOURS["black"])
        axes.set_xlabel("adjoint sweeps")
        axes.set_ylabel("time, 0 sweeps = 1")
        axes.set_ylim(0, None)
    return figure


@_styled
def conflicts(points: Mapping[str, Sequence[tuple[int, Sequence[Any]]]], title: str = "") -> Figure:
    """Cosine of likelihood's and alignment's gradients against steps, a panel an arm, a line a block.

    points: arm -> [(step, `labcore.train.conflict.conflict`)]. Blocks that the alignment does not reach have no line.
    """
    from matplotlib import colormaps

    figure = _figure((style.WIDTH, 3.9))
    panels = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
    for axes, (arm, along) in zip(panels, points.items(), strict=True):
        blocks = len(along[0][1])
        for b in range(blocks):
            curve = [(step, found[b].cosine) for step, found in along if found[b].cosine is not None]
            if curve:
                shade = colormaps["viridis"](0.92 * b / max(blocks - 1, 1))
                line, marker = LINES[b % len(LINES)], MARKERS[b % len(MARKERS)]
                axes.plot(*zip(*curve, strict=True), color=shade, linestyle=line, marker=marker, label=f"block {b + 1}")
        axes.axhline(0, color="black", linewidth=1)
        axes.set_title(arm)
        axes.set_xlabel("optimizer steps")
        axes.legend(fontsize=10)
    panels[0].set_ylabel("cosine of the two gradients")
    if title:
        figure.suptitle(title)
    return figure


@_styled
def curves(
    points: Mapping[str, Sequence[Mapping[str, Any]]], names: Mapping[str, str], baseline: str | None = None
) -> Figure:
    """Numbers against steps, a panel a number, a line an arm; the baseline's last value is a thin line.

    points: arm -> `labcore.runs.along.along`. names: key of a point -> its label.
    """
    columns = 2 if len(names) in (2, 4) else min(3, len(names))
    rows = -(-len(names) // columns)
    figure = _figure((style.WIDTH, 3.3 * rows + 0.4))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (key, label) in zip(panels, names.items(), strict=False):
        for (arm, along), line, marker in zip(points.items(), cycle(LINES), cycle(MARKERS)):
            axes.plot([p["step"] for p in along], [p[key] for p in along], linestyle=line, marker=marker, label=arm)
        if baseline in points:
            axes.axhline(points[baseline][-1][key], color="black", linewidth=0.8)
        axes.set_title(label)
        axes.set_xlabel("optimizer steps")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize=11)
    return figure


def _rectangle(corner: tuple[float, float], width: float, height: float, how: dict[str, Any]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, **how)
