"""Figure of the time of an inverse against batch size, tokens and blocks, compared with the lower bound of one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from labcore.viz import style
from labcore.viz.alignment import LINES, MARKERS
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]


@_styled
def growth(panels: Mapping[str, Mapping[str, Points]], title: str = "") -> Figure:
    """Draw milliseconds on log scales, one panel for each quantity, one line for each way.

    panels: label of the x axis -> way -> (x, milliseconds) points. A way has the same colour and marker in all panels.
    """
    figure = _figure((style.WIDTH, 4.4))
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    looks = dict(zip(names, zip(cycle(style.COLOURS.values()), cycle(MARKERS), cycle(LINES)), strict=False))
    shown = {}
    for axes, (label, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in lines.items():
            colour, marker, dashes = looks[name]
            xs, ys = zip(*sorted(points), strict=True)
            (shown[name],) = axes.plot(xs, ys, color=colour, marker=marker, linestyle=dashes, label=name)
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
    figure.axes[0].set_ylabel("milliseconds")
    figure.suptitle(title)
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=len(shown), fontsize=11)
    return figure
