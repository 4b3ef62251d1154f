"""The lab's one matplotlib style: colours that colour-blind readers tell apart, and letters that the last row can read.

`use()` sets it for a whole notebook; `context()` for a block. The functions of `labcore.viz.figures` apply it themselves, so
that a figure looks the same in a notebook, in a script and in a test. Sizes, grid and margins are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
}
"""Okabe and Ito's palette (jfly.uni-koeln.de/color), in the order in which curves take it."""

WIDTH = 10.0
"""Width of a figure in inches: the width of a notebook's output column at the dpi below."""

RC: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.labelsize": 13,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
}


def rc() -> dict[str, Any]:
    """The style as matplotlib settings."""
    from cycler import cycler

    return {**RC, "axes.prop_cycle": cycler(color=list(COLOURS.values()))}


def use() -> None:
    """Set the style for all figures from here on."""
    import matplotlib as mpl

    mpl.rcParams.update(rc())


def context() -> AbstractContextManager[None]:
    """The style inside a `with` block; what was set before comes back afterwards."""
    import matplotlib as mpl

    return mpl.rc_context(rc())


def between(share: float) -> tuple[float, float, float, float]:
    """A colour of one scale, dark at 0 and light at 1."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"](0.05 + 0.85 * share)


def log_scale(axes: Axes, values: Sequence[float], which: Literal["x", "y"] = "y") -> None:
    """A log scale; with plain numbers and at least a factor of four long, but where it spans powers of ten anyway."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(**{f"{which}scale": "log"})
    low, high = min(values), max(values)
    if high > 100 * low:
        return
    middle = (low * high) ** 0.5
    axes.set(**{f"{which}lim": (min(low / 1.2, middle / 2), max(high * 1.2, middle * 2))})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high <= 10 * low else (1, 3)))  # more would run into each other
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
