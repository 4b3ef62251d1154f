"""Figures of alignment: reach of gradients, effect of the stop-gradient, conflict of the two losses, and curves of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill
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
    """Draw the gradient norm for each direction (rows) and block (columns); a frame marks the sites' blocks.

    norms: direction -> result of `labcore.align.reach.gradient_reach`. sites: direction -> its sites. Shades show the square
    root of the norm on one scale; blocks without a gradient are white.
    """
    import numpy as np

    values = np.array([[v or np.nan for v in row] for row in norms.values()], dtype=float)
    figure = _figure((style.WIDTH, 1.6 + 0.55 * len(norms)))
    axes = figure.subplots()
    axes.imshow(np.sqrt(values / np.nanmax(values)), cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for r, name in enumerate(norms):
        marked = {block for block, _ in sites[name]}
        for b in range(values.shape[1]):
            text = "0" if np.isnan(values[r, b]) else f"{values[r, b]:.3g}"
            axes.text(b, r, text, ha="center", va="center", color="black", fontsize=11)
            if b + 1 in marked:
                ring = dict(fill=False, edgecolor=style.COLOURS["red"], linewidth=2.5)
                axes.add_patch(_rectangle((b - 0.46, r - 0.42), 0.92, 0.84, ring))
    axes.set_xticks(range(values.shape[1]), [str(b + 1) for b in range(values.shape[1])])
    axes.set_yticks(range(len(norms)), list(norms))
    axes.set_xlabel("block (1 is next to the image, the last one next to z); frame: block of a site")
    axes.set_title(title or "norm of the gradient in each block's parameters")
    axes.grid(False)
    return figure


@_styled
def sweeps(degrees: Mapping[str, Mapping[int, float]], seconds: Mapping[int, float] | None = None) -> Figure:
    """Draw the angle to the full gradient of generation against the number of adjoint sweeps, one line for each name.

    degrees: name -> {sweeps: angle in degrees}. seconds: {sweeps: time}, drawn in a second panel; default None.
    """
    figure = _figure((style.WIDTH, 3.8))
    left, *rest = figure.subplots(1, 2 if seconds else 1, squeeze=False)[0]
    for (name, found), line, marker in zip(degrees.items(), cycle(LINES), cycle(MARKERS)):
        left.plot(list(found), list(found.values()), linestyle=line, marker=marker, label=name)
    left.set_xlabel("adjoint sweeps (0: the paper's stop-gradient)")
    left.set_ylabel("angle to the full gradient, degrees")
    left.set_ylim(0, None)
    left.legend()
    for axes in rest:
        assert seconds is not None
        first = next(iter(seconds.values()))
        axes.plot(list(seconds), [value / first for value in seconds.values()], "o-", color=style.COLOURS["black"])
        axes.set_xlabel("adjoint sweeps")
        axes.set_ylabel("time relative to 0 sweeps")
        axes.set_ylim(0, None)
    return figure


@_styled
def conflicts(points: Mapping[str, Sequence[tuple[int, Sequence[Any]]]], title: str = "") -> Figure:
    """Draw the cosine and the ratio of norms of the gradients of likelihood and alignment against optimizer steps.

    One column for each arm, one line for each block that the alignment's gradient reaches. points: arm -> [(step, result of
    `labcore.train.conflict.conflict`)].
    """
    figure = _figure((style.WIDTH, 5.6))
    panels = figure.subplots(2, len(points), sharey="row", sharex=True, squeeze=False)
    for (above, below), (arm, along) in zip(panels.T, points.items(), strict=True):
        reached = [b for b in range(len(along[0][1])) if any(found[b].cosine is not None for _, found in along)]
        for b, line, marker in zip(reached, cycle(LINES), cycle(MARKERS)):
            curve = [(step, found[b]) for step, found in along if found[b].cosine is not None]
            steps, how = [step for step, _ in curve], dict(linestyle=line, marker=marker, label=f"block {b + 1}")
            above.plot(steps, [c.cosine for _, c in curve], **how)
            below.plot(steps, [c.align_norm / c.likelihood_norm for _, c in curve], **how)
        above.axhline(0, color="black", linewidth=1)
        above.set_title(arm)
        above.legend(fontsize=10)
        below.set_xlabel("optimizer steps")
    panels[0, 0].set_ylabel("cosine of the gradients")
    panels[1, 0].set_ylabel("norm, alignment / likelihood")
    panels[1, 0].set_ylim(0, None)
    if title:
        figure.suptitle(title)
    return figure


@_styled
def curves(
    points: Mapping[str, Sequence[Mapping[str, Any]]], names: Mapping[str, str], baseline: str | None = None
) -> Figure:
    """Draw measures against optimizer steps: one panel for each measure, one line for each arm.

    points: arm -> result of `labcore.experiments.along.along`. names: key of a point -> label of its panel. baseline: the arm
    whose last value is drawn as a thin line; default None.
    """
    columns = 2 if len(names) in (2, 4) else min(3, len(names))
    rows = -(-len(names) // columns)
    figure = _figure((style.WIDTH, 3.3 * rows + 0.4))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (key, label) in zip(panels, names.items(), strict=False):
        for (arm, along), line, marker in zip(points.items(), cycle(LINES), cycle(MARKERS)):
            axes.plot([p["step"] for p in along], [p[key] for p in along], linestyle=line, marker=marker, label=arm)
        if baseline in points:
            axes.axhline(points[baseline][-1][key], color="black", linewidth=0.8, label=f"{baseline}, last value")
        axes.set_title(fill(label, 26, break_on_hyphens=False))  # long titles would overlap
        axes.set_xlabel("optimizer steps")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), fontsize=11)
    return figure


def _rectangle(corner: tuple[float, float], width: float, height: float, how: dict[str, Any]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, **how)
