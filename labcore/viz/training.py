"""Figure of a training run: its curves so far, and the newest grid of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labcore.viz import style
from labcore.viz.figures import _bare, _figure, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 3.8  # inches
WIDEST = 3.0  # largest ratio of width to height of the grid of samples next to the curves


@_styled
def training(records: Sequence[Mapping[str, Any]], preview: Path | None = None) -> Figure:
    """Draw the curves of a run's log against optimizer steps (lower is better), and the samples in the PNG `preview`.

    records: records from `labcore.train.log.read_log`, at least one. For a flow, the curves are its negative log-likelihood in
    nats/dim. For a student, they are the distance of each state from the flow's state on test images; until distances are
    measured, the curve is the training loss. A preview that cannot be read is left out.
    """
    picture = _picture(preview)
    figure = _figure((style.WIDTH, HEIGHT))
    if picture is None:
        curves = figure.subplots()
    else:
        wide = min(picture.width / picture.height, WIDEST)
        curves, samples = figure.subplots(1, 2, width_ratios=(1.4, max(0.5, 0.6 * wide)))
        samples.imshow(picture, interpolation="antialiased", vmin=0, vmax=255)
        samples.set(xticks=[], yticks=[], title=f"samples, step {int(preview.stem.removeprefix('step-')):,}")
        _bare(samples)
    if any("nats_per_dim" in record or "test_nats_per_dim" in record for record in records):
        _likelihood(curves, records)
    else:
        _distances(curves, records)
    columns = 1 if len(curves.lines) < 5 else 3  # curves fall, so many names have room above their ends
    curves.legend(fontsize=10, ncols=columns)
    return figure


def _likelihood(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw the negative log-likelihood in training (with label dropout), and of the averaged weights on test images."""
    curves = (
        ("train, mean since the last record", "nats_per_dim", "-", "blue"),
        ("test, averaged weights", "test_nats_per_dim", "o-", "red"),
    )
    ends = []
    for name, key, line, colour in curves:
        points = [(record["step"], record[key]) for record in records if key in record]
        if points:
            alone = "o" if len(points) == 1 else line
            axes.plot(*zip(*points, strict=True), alone, label=name, color=style.COLOURS[colour])
            ends.append((points[-1], style.COLOURS[colour]))
    for (end, colour), lift in zip(sorted(ends, key=lambda item: item[0][1]), (-14, 8), strict=False):
        axes.annotate(f"{end[1]:.3f}", end, (8, lift), textcoords="offset points", color=colour, annotation_clip=False)
    axes.set(xlabel="optimizer steps", ylabel="nats/dim")
    axes.margins(0.06, 0.1)


def _distances(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw a student's distances on test images, relative to the target's mean square; until they are measured, its loss."""
    names = sorted({key for record in records for key in record if key.startswith("test_")})
    shown = {name: name.removeprefix("test_").replace("state-", "state ") for name in names}
    colours = list(style.COLOURS.values())
    for place, (key, label) in enumerate((shown or {"loss": "loss, mean since the last record"}).items()):
        points = [(record["step"], record[key]) for record in records if key in record]
        if points:
            line, marker = ("--", "s") if place >= len(colours) else ("-", "o")
            axes.plot(
                *zip(*points, strict=True), marker=marker if shown else "", linestyle=line, label=label,
                color=colours[place % len(colours)],
            )  # fmt: skip
    axes.set(xlabel="optimizer steps", ylabel="distance on test images" if shown else "loss, sum of all terms")
    axes.margins(0.06, 0.1)
    axes.set_ylim(0, None)


def _picture(path: Path | None) -> Any:
    """Return the picture of a PNG, or None if it cannot be read, for example while it is written."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, AttributeError, SyntaxError):  # no path was given, or the PNG is incomplete
        return None
