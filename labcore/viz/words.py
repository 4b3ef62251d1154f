"""Descriptions of figures in words, for readers who cannot see them, made from their texts and the ends of their curves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

DESCRIPTION = "Description"
"""The PNG standard's keyword for a text that describes a picture."""
MOST = 12
"""Most names of one kind that a description lists; our choice."""


def described(figure: Figure) -> str:
    """Describe a figure: its titles and axes, its curves with their ends, and the names of bars, points, rows and columns."""
    texts = [text.get_text() for text in figure.texts]
    parts = [figure.get_suptitle(), *texts, *(_panel(axes) for axes in figure.axes), *_names(figure.legends)]
    different_parts = dict.fromkeys(part for part in parts if part)
    return _plain("; ".join(different_parts)) or "a picture"


def grid_in_words(
    row_names: Sequence[str] = (), column_names: Sequence[str] = (), image_names: Sequence[str] = ()
) -> str:
    """Return the names of a grid's rows, columns and images as text; empty if there are none."""
    kinds = {"rows": row_names, "columns": column_names, "images": image_names}
    return ", ".join(f"{kind} {_listed(list(names))}" for kind, names in kinds.items() if any(names))


def described_png(png: bytes) -> str:
    """Return the description in a PNG; empty if it has none."""
    from PIL import Image

    with Image.open(BytesIO(png)) as picture:
        return picture.info.get(DESCRIPTION, "")


def _panel(axes: Axes) -> str:
    if not axes.axison:
        return ""
    x, y = axes.get_xlabel(), axes.get_ylabel()
    where = f"{y} against {x}" if x and y else x or y
    curves = [_curve(line) for line in axes.lines if not line.get_label().startswith("_")]
    own = {line.get_label() for line in axes.lines}
    others = [name for name in axes.get_legend_handles_labels()[1] if name not in own]
    named = [*_ticks("rows", axes.yaxis), *_ticks("columns", axes.xaxis)]
    for child in axes.child_axes:
        named += _ticks("below", child.xaxis)
    named.append(grid_in_words(image_names=[text.get_gid() or "" for text in axes.texts]))
    return ", ".join(part for part in (axes.get_title(), where, *named, _listed(curves), _listed(others)) if part)


def _curve(line: Line2D) -> str:
    """Describe a curve by its name and its ends; single points only by their name."""
    x, y = line.get_data()
    if len(x) < 2 or line.get_linestyle() == "None":
        return line.get_label()
    try:
        ends = [f"{float(y[i]):.3g} at {float(x[i]):.3g}" for i in (0, -1)]
    except (TypeError, ValueError):  # categories
        return line.get_label()
    return f"{line.get_label()} from {ends[0]} to {ends[1]}"


def _ticks(kind: str, axis: Axis) -> list[str]:
    """Return the labels of an axis if they are names and not numbers."""
    names = [_plain(name.get_text()) for name in axis.get_ticklabels()]
    return [f"{kind} {_listed(names)}"] if any(re.search(r"[^\W\d]", name) for name in names) else []


def _names(legends: list) -> list[str]:
    return [_listed([text.get_text() for text in legend.get_texts()]) for legend in legends]


def _listed(names: list[str]) -> str:
    names = list(dict.fromkeys(filter(None, names)))
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def _plain(text: str) -> str:
    """Return the text without formula signs and line breaks."""
    return re.sub(r"\s+", " ", re.sub(r"\\(?:mathrm|mathbf|mathdefault|log|nabla)?|[${}]", "", text)).strip()
