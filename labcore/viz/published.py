"""Figures of a published run: what a learned inverse's training says, and measures of its images by guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labcore.viz import style
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"fid": "FID", "sfid": "sFID", "is": "IS", "precision": "precision", "recall": "recall"}
BETTER = {"fid": "lower", "sfid": "lower", "is": "higher", "precision": "higher", "recall": "higher"}


@_styled
def distances(records: Sequence[Mapping[str, Any]]) -> Figure:
    """A learned inverse's training loss, and on test images the distance of each of its states from the flow's, by step."""
    figure = _figure((style.WIDTH, 4.2))
    left, right = figure.subplots(1, 2)
    steps = [record["step"] for record in records]
    left.plot(steps, [record["loss"] for record in records], label="loss, mean since the last record")
    left.legend()
    left.set_ylabel("sum of all terms")
    tested = [record for record in records if any(key.startswith("test_") for key in record)]
    names = sorted({key for record in tested for key in record if key.startswith("test_")})
    for place, name in enumerate(names):
        said = name.removeprefix("test_").replace("state-", "state ")
        colour = list(style.COLOURS.values())[place % len(style.COLOURS)]
        values = [record.get(name) for record in tested]
        style_of = dict(marker="o", linestyle="--" if place >= len(style.COLOURS) else "-", color=colour)
        right.plot([record["step"] for record in tested], values, label=said, **style_of)
    right.set_ylabel("distance on test images")
    right.legend(fontsize=10, ncols=2)
    for axes in (left, right):
        axes.set_xlabel("optimizer steps")
        axes.set_ylim(0, None)
    return figure


@_styled
def by_guidance(
    images: Mapping[str, Mapping[str, Mapping[str, Any]]], paper: Mapping[str, float] | None = None, best: float = 0.0
) -> Figure:
    """Measures of drawn images against guidance, a panel a measure, with 95% intervals, and dashed lines to hold them to.

    images: of `labcore.runs.measuring.measured`, guidance -> name -> value, low, high, n, floor. The floor is what held-out
    real images score. paper: its numbers by the same names, of the same extractor. best: the guidance that is marked.
    """
    names = list(next(iter(images.values())))
    figure = _figure((style.WIDTH, 3.9))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        scales = sorted(images, key=float)
        found = [images[scale][name] for scale in scales]
        x, y = [float(scale) for scale in scales], [each["value"] for each in found]
        around = [
            [v - e["low"] for v, e in zip(y, found, strict=True)],
            [e["high"] - v for v, e in zip(y, found, strict=True)],
        ]
        axes.errorbar(x, y, yerr=around, marker="o", capsize=4, label="this run")
        axes.plot([best], [y[x.index(best)]], marker="o", markersize=13, fillstyle="none", color="black", linestyle="")
        if (floor := found[0].get("floor")) is not None:
            axes.axhline(floor, linestyle="--", linewidth=1.2, color="black", label=f"real images: {floor:.4g}")
        if paper and name in paper:
            axes.axhline(
                paper[name], linestyle=":", linewidth=1.8, color=style.COLOURS["red"], label=f"paper: {paper[name]:.4g}"
            )
        metric, _, extractor = name.partition("_")
        axes.set_title(
            f"{TITLES[metric]}{f' ({extractor})' if extractor else ''}, {BETTER[metric]} is better", fontsize=12
        )
        axes.set_xlabel("guidance $g$")
        axes.set_xticks(x)
        axes.margins(x=0.15, y=0.15)
        axes.legend(fontsize=10)
    return figure
