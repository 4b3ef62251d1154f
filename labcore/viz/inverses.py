"""Figures of inverses: sizes of states, their shares of a squared error, and comparisons of ways to invert a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import TYPE_CHECKING

import torch

from labcore.viz import style
from labcore.viz.alignment import LINES, MARKERS
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@_styled
def norms(found: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """Draw the root mean square of each state from the image x^0 to x^T = z on a log scale, one line for each flow.

    The dashed line is the value 1 of standard normal noise.
    """
    figure = _figure((style.WIDTH, 4.0))
    axes = figure.subplots()
    for (name, values), line, marker in zip(found.items(), cycle(LINES), cycle(MARKERS)):
        axes.plot(range(len(values)), list(values), linestyle=line, marker=marker, label=name)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
    last = max(map(len, found.values())) - 1
    axes.set_xticks(range(last + 1), ["$x^0$", *(f"$x^{{{i}}}$" for i in range(1, last)), "$z$"])
    style.log_scale(axes, [value for values in found.values() for value in values])
    axes.set_xlabel("state, from the noisy image to the prior")
    axes.set_ylabel("root mean square")
    axes.set_title(title)
    axes.legend()
    return figure


@_styled
def norms_along(found: Mapping[str, Mapping[int, Sequence[float]]]) -> Figure:
    """Draw the root mean square of each state against optimizer steps, one panel for each flow, one line for each state.

    found: flow -> {step: values of x^0 ... x^T}.
    """
    figure = _figure((style.WIDTH, 4.2))
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    everything = [value for along in found.values() for values in along.values() for value in values]
    for axes, (name, along) in zip(panels, found.items(), strict=True):
        for state, values in enumerate(zip(*along.values(), strict=True)):
            shade = state / max(len(next(iter(along.values()))) - 1, 1)
            colour = style.between(shade)
            axes.plot(list(along), values, color=colour, marker="o", label=f"$x^{{{state}}}$")
        axes.set_title(name)
        axes.set_xlabel("optimizer steps")
        style.log_scale(axes, everything)
    panels[0].set_ylabel("root mean square of the state")
    panels[-1].legend(fontsize=10, ncols=2)
    return figure


@_styled
def shares(found: Mapping[str, Sequence[float]], states: Sequence[str], title: str = "") -> Figure:
    """Draw the shares of a sum over states: one bar for each name, one segment for each state, in sampling order."""
    figure = _figure((style.WIDTH, 1.5 + 0.6 * len(found)))
    axes = figure.subplots()
    for row, values in enumerate(found.values()):
        left = 0.0
        for number, value in enumerate(values):
            share = value / sum(values)
            colour = style.between(number / max(len(values) - 1, 1))
            axes.barh(row, share, left=left, color=colour, edgecolor="white")
            if share > 0.06:
                dark = number / max(len(values) - 1, 1) < 0.5
                where = (left + share / 2, row)
                text = f"{states[number]}\n{100 * share:.0f}%"
                axes.text(*where, text, ha="center", va="center", fontsize=10, color="white" if dark else "black")
            left += share
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the sum over states, in sampling order from z (left) to the image (right)")
    axes.set_title(title)
    axes.grid(False)
    return figure


@_styled
def ways(
    found: Mapping[str, Mapping[str, float]],
    names: Mapping[str, str],
    log: Sequence[str] = (),
    real: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Draw the measures of several ways: one panel for each measure, one point for each way that has it.

    Args:
        found: way -> {key: value}. Ways have the same colour if their names are equal up to the first comma.
        names: key -> label of its panel.
        log: keys that are drawn on a log scale.
        real: key -> value of held-out real images, drawn as a dashed line.
        title: title of the figure.
    """
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = _figure((style.WIDTH, rows * (1.1 + 0.34 * len(found))))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    kinds = list(dict.fromkeys(name.split(",")[0] for name in found))
    colours = dict(zip(kinds, cycle(style.COLOURS.values())))
    for axes, (key, label) in zip(panels, names.items(), strict=False):
        for row, (name, numbers) in enumerate(found.items()):
            if key in numbers:
                axes.plot(numbers[key], row, "o", color=colours[name.split(",")[0]])
        if key in (real or {}):
            axes.axvline(real[key], color="black", linewidth=0.8, linestyle="--")
        axes.set_xlabel(label)
        if key in log:
            style.log_scale(axes, [numbers[key] for numbers in found.values() if key in numbers], "x")
        else:
            axes.locator_params(axis="x", nbins=3)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[0].set_yticks(range(len(found)), [fill(name, 24) for name in found])
    panels[0].set_ylim(len(found) - 0.5, -0.5)
    figure.suptitle(title)
    return figure


@_styled
def changed_rows(found: Mapping[str, Sequence[float]], known: int) -> Figure:
    """Draw the mean change of each row of pixels by inpainting, one line for each way.

    The first `known` rows were given; they are above the dashed line.
    """
    figure = _figure((style.WIDTH, 4.0 + 0.12 * len(found)))
    axes = figure.subplots()
    for (name, values), line, marker in zip(found.items(), cycle(LINES), cycle(MARKERS)):
        axes.plot(list(values), range(1, len(values) + 1), linestyle=line, marker=marker, label=name)
    axes.axhline(known + 0.5, color="black", linewidth=0.8, linestyle="--")
    axes.invert_yaxis()
    axes.set_xlabel("mean |inpainted image - source image|")
    axes.set_ylabel("row of pixels, from the top")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=10)
    return figure


@_styled
def by_guidance(found: Mapping[str, Mapping[float, tuple[float, float, float]]], title: str = "") -> Figure:
    """Draw the share of recognised samples against guidance, with intervals, one line for each way.

    found: way -> {guidance: (share, low, high)}, in [0, 1].
    """
    figure = _figure((0.7 * style.WIDTH, 4.2))
    axes = figure.subplots()
    for (name, points), line, marker in zip(found.items(), cycle(LINES), cycle(MARKERS)):
        shares, low, high = (100 * torch.tensor(values) for values in zip(*points.values(), strict=True))
        bars = torch.stack([shares - low, high - shares]).clamp_min(0).numpy()
        axes.errorbar(list(points), shares.tolist(), bars, linestyle=line, marker=marker, capsize=3, label=name)
    axes.set(xlabel="guidance $g$ (0 is off)", ylabel="recognised samples, %", title=title)
    axes.legend()
    return figure
