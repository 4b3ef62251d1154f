"""Figures of what a flow's hidden features know, site by site. Like `labcore.viz.figures`: records in, a matplotlib Figure out.

A site is a (block, layer), both counted from 1; sites stand in the order given, from image to noise by default, and thin
vertical lines part the blocks. Lines and markers differ also without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labcore.evaluate.accuracy import Accuracy
from labcore.evaluate.probe import ProbeReport
from labcore.types import Site
from labcore.viz import style
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = 16  # site names that fit beside each other; of more sites every second, third, ... is named


@_styled
def probe_by_site(
    report: ProbeReport, training_free: Accuracy | None = None, bayes: Accuracy | None = None, title: str = ""
) -> Figure:
    """Accuracy of a linear probe at each site after its last epoch, in percent, with 95% Wilson intervals (FlowBack, figure 4).

    report: of `labcore.evaluate.probe_sites`. training_free, bayes: accuracy of the flow's own classification, drawn as a
    horizontal line with its interval as a band.
    """
    figure = _figure((style.WIDTH, 4.6))
    axes = figure.subplots()
    values = [100 * site.accuracy.accuracy for site in report.sites]
    below = [value - 100 * site.accuracy.low for value, site in zip(values, report.sites, strict=True)]
    above = [100 * site.accuracy.high - value for value, site in zip(values, report.sites, strict=True)]
    axes.errorbar(
        range(len(values)),
        values,
        (below, above),
        fmt="o-",
        color=style.COLOURS["blue"],
        capsize=3 if len(values) <= TICKS else 0,
        elinewidth=1.2,
        markersize=_marker_size(len(values)),
    )
    lines = (
        (training_free, "training-free", "red", "--"),
        (bayes, "Bayes", "green", "-."),
    )
    names = [(values[-1], "linear probe", style.COLOURS["blue"])]
    for measured, name, colour, line in lines:
        if measured is not None:
            colour = style.COLOURS[colour]
            axes.axhspan(100 * measured.low, 100 * measured.high, color=colour, alpha=0.15, linewidth=0)
            axes.axhline(100 * measured.accuracy, color=colour, linestyle=line)
            names.append((100 * measured.accuracy, f"{name}\n{measured.accuracy:.1%}", colour))
    _sites(axes, [(site.block, site.layer) for site in report.sites])
    counts = sorted({m.n for m in (report.sites[0].accuracy, training_free, bayes) if m is not None})
    images = " and ".join(f"{n:,}" for n in counts)
    axes.set(ylabel=f"accuracy, %, {images} test images", title=title)
    _beside(axes, names)
    return figure


@_styled
def alignment_by_site(
    values: Mapping[Site, float],
    encoder: str = "",
    k: int = 10,
    name: str = "",
    others: Mapping[str, Mapping[Site, float]] | None = None,
) -> Figure:
    """CKNNA with a vision encoder at each site: 1 for equal neighbourhoods, up to k/n for unrelated ones (n images).

    values: of `labcore.evaluate.cknna_sites`; encoder, k: what it was given, for the axis. name, others: the flow's name
    and further flows with values at the same sites, each a curve. Raises ValueError where the sites differ.
    """
    curves = {name: values, **(others or {})}
    if len(curves) != 1 + len(others or {}):
        raise ValueError(f"two curves are named {name!r}; give each its own name")
    for other, curve in curves.items():
        if list(curve) != list(values):
            raise ValueError(f"{other!r} has sites {list(curve)}, and the first curve {list(values)}; give equal sites")
    figure = _figure((style.WIDTH, 4.2))
    axes = figure.subplots()
    colours = [style.COLOURS[colour] for colour in ("blue", "red", "green", "purple", "black")]
    names = []
    for number, (label, curve) in enumerate(curves.items()):
        colour, heights = colours[number % len(colours)], list(curve.values())
        line, marker = ("-", "--", "-.", ":")[number % 4], "os^Dv"[number % 5]
        axes.plot(
            range(len(heights)),
            heights,
            linestyle=line,
            marker=marker,
            color=colour,
            markersize=_marker_size(len(heights)),
        )
        names.append((heights[-1], label, colour))
    every = [value for curve in curves.values() for value in curve.values()]
    axes.set(ylabel=f"CKNNA{f' with {encoder}' if encoder else ''} (k = {k})")
    if min(every) >= 0:
        axes.set_ylim(0, 1.1 * max(every) or 1)
    _sites(axes, list(values))
    if any(label for _, label, _ in names):
        _beside(axes, names)
    return figure


def _marker_size(sites: int) -> float:
    """In points: smaller where many sites stand close together."""
    return 7.0 if sites <= TICKS else 4.0


def _sites(axes: Axes, sites: Sequence[Site]) -> None:
    """A tick a site, (block, layer) under as many as fit, and a thin line between blocks."""
    step = -(-len(sites) // TICKS)
    named = range(0, len(sites), step)
    axes.set_xticks(
        list(named), [f"({sites[i][0]},{sites[i][1]})" for i in named], fontsize=12 if len(named) < 13 else 10
    )
    axes.set_xticks([i for i in range(len(sites)) if i % step], minor=True)
    axes.grid(False, axis="x")
    for i in range(1, len(sites)):
        if sites[i][0] != sites[i - 1][0]:
            axes.axvline(i - 0.5, color="#BBBBBB", linewidth=0.8, zorder=0)
    axes.set_xlim(-0.6, len(sites) - 0.4)
    axes.set_xlabel("site (block, layer): block 1 touches the image, the last block the noise")


def _beside(axes: Axes, names: Sequence[tuple[float, str, str]]) -> None:
    """(height, name, colour) to the right of the axes, each at its height but moved apart where they would touch."""
    low, high = axes.get_ylim()
    places: list[float] = []
    gaps = [0.065 * (1 + name.count("\n")) for _, name, _ in names]
    order = sorted(range(len(names)), key=lambda i: names[i][0])
    for rank, i in enumerate(order):
        place = (names[i][0] - low) / (high - low)
        if rank:
            place = max(place, places[-1] + (gaps[i] + gaps[order[rank - 1]]) / 2)
        places.append(place)
    for i, place in zip(order, places, strict=True):
        _, name, colour = names[i]
        axes.annotate(name, (1.01, place), xycoords="axes fraction", color=colour, va="center", annotation_clip=False)
