"""Figure of a published run: measures of its images against guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labcore.viz import style
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"fid": "FID", "sfid": "sFID", "is": "IS", "precision": "precision", "recall": "recall"}
BETTER = {"fid": "lower", "sfid": "lower", "is": "higher", "precision": "higher", "recall": "higher"}


@_styled
def by_guidance(
    images: Mapping[str, Mapping[str, Mapping[str, Any]]], paper: Mapping[str, float] | None = None, best: float = 0.0
) -> Figure:
    """Draw measures of sampled images against guidance, one panel for each measure, with 95% intervals.

    Args:
        images: result of `labcore.runs.evaluate.evaluate_run`: guidance -> name -> value, low, high, n, floor. The floor is
            the measure of held-out real images, drawn as a dashed line.
        paper: the paper's numbers by the same names, for the same extractor, drawn as dotted lines; default none.
        best: guidance that is marked by a circle; default 0.
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
