"""Curves as SVG in a page: colours and fonts are the page's, so one chart fits light and dark.

matplotlib chooses the ticks. The page's style sheet gives colours to the classes "run-1", "run-2", ... of the curves, and to
"axis" and "grid".
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
"""Margins in the chart's own units, which are pixels on a narrow screen."""
MOST = 400
"""Points of a curve that are drawn one by one; our choice."""
START = 0.05
"""Share of the steps, at the start, whose values do not widen the chart, because a loss falls fastest there."""
FEW = 10
"""Smallest number of points after the start; with fewer points, the chart spans all values."""

Points = Sequence[tuple[int, float]]


class Curve(NamedTuple):
    """A curve: its CSS class, its name, and its points (step, value) by growing step, which are finite."""

    css: str
    name: str
    points: Points


def curve_svg(key: str, curves: Sequence[Curve]) -> str:
    """Draw curves of one number against optimizer steps.

    key: name of the number. curves: at least one point in all. The chart has a description in words for screen readers.
    """
    from matplotlib.ticker import MaxNLocator

    last = max(curve.points[-1][0] for curve in curves if curve.points)
    low, high = _range([curve.points for curve in curves], last)
    ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    steps = [tick for tick in MaxNLocator(4, integer=True).tick_values(0, last) if tick <= last]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    across = lambda step: (right - LEFT) * step / max(last, 1)  # noqa: E731
    down = lambda value: (bottom - TOP) * (high - value) / (high - low)  # noqa: E731

    parts = [
        f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(in_words(key, curves))}">'
    ]
    for tick in ticks:
        y = TOP + down(tick)
        parts.append(f'<path class="grid" d="M{LEFT},{y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    for step in steps:
        anchor = "end" if step == last else "middle"
        parts.append(f'<text x="{LEFT + across(step):.1f}" y="{bottom + 15}" text-anchor="{anchor}">{step:,.0f}</text>')
    parts.append(f'<path class="axis" d="M{LEFT},{TOP}V{bottom}H{right}"/>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 4}" text-anchor="middle">optimizer steps</text>')
    # an inner svg cuts off what lies outside of it
    parts.append(f'<svg x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}">')
    for curve in curves:
        drawn = [(across(step), down(value)) for step, value in thinned(curve.points)]
        if len(drawn) == 1:
            parts.append(f'<circle class="{curve.css}" cx="{drawn[0][0]:.1f}" cy="{drawn[0][1]:.1f}" r="3"/>')
        elif drawn:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
            parts.append(f'<polyline class="{curve.css}" points="{points}"/>')
    return "".join([*parts, "</svg></svg>"])


def in_words(key: str, curves: Sequence[Curve]) -> str:
    """Describe where each curve begins, ends and is lowest."""
    said = []
    for curve in curves:
        if curve.points:
            (first, begin), (last, end) = curve.points[0], curve.points[-1]
            lowest = min(value for _, value in curve.points)
            said.append(
                f"{curve.name} from {begin:.4g} at step {first:,} to {end:.4g} at step {last:,}, lowest {lowest:.4g}"
            )
    return f"{key} against optimizer steps: {'; '.join(said)}"


def thinned(points: Points) -> list[tuple[int, float]]:
    """Return about MOST points or fewer: if there are more, the smallest and the largest of each group of neighbours."""
    if len(points) <= MOST:
        return list(points)
    size = -(-2 * len(points) // MOST)
    kept: list[tuple[int, float]] = []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        ends = {min(group, key=lambda point: point[1]), max(group, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def _range(curves: Sequence[Points], last: int) -> tuple[float, float]:
    """Return the values at the bottom and the top of the chart."""
    every = [value for points in curves for _, value in points]
    later = [value for points in curves for step, value in points if step > START * last]
    values = later if len(later) >= FEW else every
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
