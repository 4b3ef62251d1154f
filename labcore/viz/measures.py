"""Figures of a flow's knowledge of classes. Functions take records and return a matplotlib Figure, as in `labcore.viz.figures`.

A site is (block, layer), both counted from 1. Sites are drawn in the given order, by default from image to noise; thin
vertical lines separate the blocks. Lines and markers can be distinguished without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labcore.evaluate.accuracy import Accuracy
from labcore.evaluate.probe import ProbeReport
from labcore.sites import Site
from labcore.viz import style
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = 16  # most names of sites on an axis; with more sites, every second, third, ... is named
LINES = (
    ("red", "--"),
    ("green", "-."),
    ("black", ":"),
    ("purple", (0, (8, 3))),
)  # colours and dashes of horizontal lines


@_styled
def probe_by_site(
    report: ProbeReport,
    training_free: Accuracy | None = None,
    lines: Mapping[str, Accuracy] | None = None,
    title: str = "",
) -> Figure:
    """Draw the accuracy of a linear probe at each site, in percent, with 95% Wilson intervals (FlowBack, figure 4).

    Args:
        report: result of `labcore.evaluate.probe_sites`.
        training_free: accuracy of the flow's training-free classification, a horizontal line with its interval as a band.
        lines: further accuracies by name, such as Bayes' rule or a probe on raw pixels, drawn in the same way.
        title: title of the figure.
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
    named = {**({"training-free": training_free} if training_free is not None else {}), **(lines or {})}
    names = [(values[-1], "linear probe", style.COLOURS["blue"])]
    for (name, measured), (colour, line) in zip(named.items(), cycle(LINES)):
        colour = style.COLOURS[colour]
        axes.axhspan(100 * measured.low, 100 * measured.high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(100 * measured.accuracy, color=colour, linestyle=line)
        names.append((100 * measured.accuracy, f"{name}\n{measured.accuracy:.1%}", colour))
    _sites(axes, [(site.block, site.layer) for site in report.sites])
    counts = sorted({m.n for m in (report.sites[0].accuracy, *named.values())})
    images = " and ".join(f"{n:,}" for n in counts)
    axes.set(ylabel=f"accuracy on {images} test images, %", title=title)
    _beside(axes, names)
    return figure


@_styled
def alignment_by_site(
    values: Mapping[Site, float],
    encoder: str = "",
    k: int = 10,
    name: str = "",
    others: Mapping[str, Mapping[Site, float]] | None = None,
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Draw CKNNA with a vision encoder at each site: 1 for equal neighbourhoods, up to k/n for unrelated ones (n images).

    Args:
        values: result of `labcore.evaluate.cknna_sites`.
        encoder: name of the encoder, for the axis.
        k: number of neighbours, for the axis.
        name: name of the flow.
        others: values of further flows at the same sites, by name.
        lines: values without a site, such as raw pixels or chance, by name; drawn as horizontal lines.

    Raises:
        ValueError: two curves have the same name, or their sites differ.
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
    for (label, height), (colour, line) in zip((lines or {}).items(), cycle(LINES)):
        axes.axhline(height, color=style.COLOURS[colour], linestyle=line)
        names.append((height, f"{label}\n{height:.3f}", style.COLOURS[colour]))
    every = [height for height, _, _ in names] + [value for curve in curves.values() for value in curve.values()]
    axes.set(ylabel=f"CKNNA{f' with {encoder}' if encoder else ''} (k = {k})")
    if min(every) >= 0:
        axes.set_ylim(0, 1.1 * max(every) or 1)
    _sites(axes, list(values))
    _beside(axes, [(height, label, colour) for height, label, colour in names if label])
    return figure


@_styled
def first_order(
    slopes: Float[Tensor, "b k"], changes: Mapping[str, Float[Tensor, "b k"]], labels: Int[Tensor, " b"]
) -> Figure:
    """Draw the measured change of log p(x) against the linear prediction; one panel for each step length.

    Each point is one image and class. On the dashed line the prediction is exact. The panels share their axes, which end at the
    0.5th and 99.5th percentile.

    Args:
        slopes: predicted change of log p(x) from "no class" to class k, in nats: K times `labcore.evaluate.class_scores`.
        changes: title of a panel -> measured change, divided by the length of the step.
        labels: true classes.
    """
    own = torch.zeros_like(slopes, dtype=torch.bool).scatter_(1, labels[:, None].to(slopes.device), True)
    measured = torch.cat([change.flatten() for change in changes.values()])
    xlim, ylim = ([v.double().quantile(q).item() for q in (0.005, 0.995)] for v in (slopes.flatten(), measured))
    figure = _figure((style.WIDTH, 5.0))
    panels = figure.subplots(1, len(changes), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, change) in zip(panels, changes.items(), strict=True):
        for part, label, marker, size, colour, face in (
            (~own, "other classes", "o", 7, "#999999", "#999999"),
            (own, "true class", "D", 20, style.COLOURS["blue"], "none"),
        ):
            x, y = slopes[part].tolist(), change[part].tolist()
            axes.scatter(x, y, size, marker=marker, edgecolors=colour, facecolors=face, linewidths=1, label=label)
        axes.axline((0, 0), slope=1, color="black", linestyle="--", linewidth=1.2)
        axes.set(title=name, xlim=xlim, ylim=ylim)
    panels[0].set_ylabel("measured change, nats")
    panels[0].legend(loc="upper left", handletextpad=0.2, borderaxespad=0.1)
    figure.supxlabel(
        f"change predicted from the gradient, nats; {len(labels):,} images x {slopes.shape[1]} classes", fontsize=13
    )
    return figure


@_styled
def confusions(labels: Int[Tensor, " b"], found: Mapping[str, Int[Tensor, " b"]], classes: Sequence[str]) -> Figure:
    """Draw a confusion table for each classifier: true classes are rows, answers are columns, and rows sum to 100%.

    labels: true classes (b,). found: classifier -> its answers (b,). Cells below 1% are empty.
    """
    figure = _figure((style.WIDTH, 5.2))
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    k = len(classes)
    for axes, (name, answers) in zip(panels, found.items(), strict=True):
        counts = torch.bincount(labels.cpu() * k + answers.cpu(), minlength=k * k).view(k, k).double()
        shares = 100 * counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
        axes.imshow(shares.numpy(), cmap="Greys", vmin=0, vmax=100)
        for row, column in (shares >= 1).nonzero().tolist():
            share = float(shares[row, column])
            axes.text(
                column,
                row,
                f"{share:.0f}",
                ha="center",
                va="center",
                fontsize=11,
                color="white" if share > 55 else "black",
            )
        axes.set_xticks(range(k), classes, rotation=60, ha="right", rotation_mode="anchor", fontsize=11)
        axes.set_yticks(range(k), classes, fontsize=11)
        axes.set(title=name, xlabel="answer")
        axes.tick_params(length=0)
        axes.grid(False)
    panels[0].set_ylabel("true class (numbers: % of its images)")
    return figure


def _marker_size(sites: int) -> float:
    """Return the size of markers in points, smaller for many sites."""
    return 7.0 if sites <= TICKS else 4.0


def _sites(axes: Axes, sites: Sequence[Site]) -> None:
    """Mark each site by a tick, with its name (block, layer) if there is room, and separate blocks by thin lines."""
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
    axes.set_xlabel("site (block, layer): block 1 is next to the image, the last block next to the noise")


def _beside(axes: Axes, names: Sequence[tuple[float, str, str]]) -> None:
    """Write names (height, name, colour) to the right of the axes, each at its height, moved apart if they would overlap."""
    low, high = axes.get_ylim()
    gap = [0.065 * (1 + name.count("\n")) for _, name, _ in names]
    order = sorted(range(len(names)), key=lambda i: names[i][0])
    place = {i: (names[i][0] - low) / (high - low) for i in order}
    for lower, i in pairwise(order):
        place[i] = max(place[i], place[lower] + (gap[i] + gap[lower]) / 2)
    # names that are now above the axes move down again, and push others down
    for upper, i in pairwise([None, *reversed(order)]):
        place[i] = min(place[i], 1.0 if upper is None else place[upper] - (gap[i] + gap[upper]) / 2)
    for i in order:
        _, name, colour = names[i]
        axes.annotate(
            name, (1.01, place[i]), xycoords="axes fraction", color=colour, va="center", annotation_clip=False
        )
