"""The matplotlib style of the lab: colours that colour-blind readers can distinguish, and large letters for projection.

`use()` sets it for a whole notebook, `context()` for a `with` block. All functions of `labcore.viz` that draw apply it, so a
figure looks the same in a notebook, a script and a test. Sizes, grid and margins are our choice.
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
"""Okabe and Ito's palette (jfly.uni-koeln.de/color), in the order of curves."""

WIDTH = 10.0
"""Width of a figure in inches: the width of a notebook's output at the dpi of `RC`."""

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
    """Return the style as matplotlib settings."""
    from cycler import cycler

    return {**RC, "axes.prop_cycle": cycler(color=list(COLOURS.values()))}


def use() -> None:
    """Set the style for all later figures."""
    import matplotlib as mpl

    mpl.rcParams.update(rc())


def context() -> AbstractContextManager[None]:
    """Return a context with the style; the former settings are restored after it."""
    import matplotlib as mpl

    return mpl.rc_context(rc())


def between(share: float) -> tuple[float, float, float, float]:
    """Return a colour of a scale that is dark at share 0 and light at 1."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"](0.05 + 0.85 * share)


def log_scale(axes: Axes, values: Sequence[float], which: Literal["x", "y"] = "y") -> None:
    """Set a log scale.

    If the values span at most a factor of 100, ticks are plain numbers, and the axis spans at least a factor of 4.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(**{f"{which}scale": "log"})
    low, high = min(values), max(values)
    if high > 100 * low:
        return
    middle = (low * high) ** 0.5
    axes.set(**{f"{which}lim": (min(low / 1.2, middle / 2), max(high * 1.2, middle * 2))})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high <= 10 * low else (1, 3)))  # more ticks would overlap
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
