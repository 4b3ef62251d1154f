"""Figures of a flow at work. Each function takes tensors or records and returns a matplotlib Figure, and shows nothing.

Images are in [-1, 1] (black -1, white +1) and clipped for display; every other scale is written into the figure. The
figures belong to no pyplot state, so a notebook shows one by naming it, and only once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from labcore.data.transforms import tile
from labcore.viz import style
from labcore.viz.class_labels import shortened, shown
from labcore.viz.words import described

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 2  # white pixels between two images
NAMES = 1.2  # inches for names beside rows
LETTER = 0.1  # inches of a letter of a name, roughly
TALLEST = 7.0  # inches of images below one another, so that a figure fits a screen
LINE = (
    0.2  # inches of a line of letters: rows with names are at least as high, and the figure taller where they are many
)
SMALL = 9  # points, height of letters of names under images
STATE_RANGE = 3.0  # states are shown on [-3, 3]: 99.7% of standard normal values


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """The function, drawing in the lab's style."""

    @wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        with style.context():
            return draw(*args, **kwargs)

    return styled


@_styled
def image_grid(
    x: Float[Tensor, "b c h w"],
    columns: int,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    title: str = "",
    row_axis: str = "",
    column_axis: str = "",
    image_names: Sequence[str] = (),
) -> Figure:
    """Images (b, c, h, w) in [-1, 1], filled row by row, with names for rows, columns and images, or without.

    Names are plain text; one under an image ends in an ellipsis where it is too long. `labcore.viz.class_labels.by_class`
    makes names of classes.
    """
    rows = -(-len(x) // columns)
    beside = max(NAMES, LETTER * max(map(len, row_names))) if row_names else 0.0
    beside += 0.3 * bool(row_axis)
    side = min(1.0, (style.WIDTH - beside) / columns, _height(rows, row_names))
    above = 0.3 * (bool(title) + bool(column_names) + bool(column_axis))
    longest = LETTER * max(map(len, column_names), default=0)
    slanted = longest > side  # names that would run into each other
    if slanted:
        side = min(side, (style.WIDTH - beside - 0.7 * longest) / columns)
        beside, above = beside + 0.7 * longest, above + 0.5 * longest
    figure = _figure((columns * side + beside, rows * (side + LINE * bool(image_names)) + above))
    axes = figure.subplots()
    _sheet(axes, x, columns, row_names, column_names, image_names, side)
    if slanted:
        size = min(axes.get_xticklabels()[0].get_fontsize(), 72 * 0.5 * side)  # lines that are slanted stand closer
        for name in axes.get_xticklabels():
            name.set(rotation=35, ha="left", rotation_mode="anchor", fontsize=size)
    axes.set(title=title, xlabel=column_axis, ylabel=row_axis)
    return figure


@_styled
def beside(
    panels: Mapping[str, Float[Tensor, "b c h w"]], columns: int, row_names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Sets of images of equal size side by side, each (b, c, h, w) under its name: before and after, one model and another."""
    rows = -(-max(len(x) for x in panels.values()) // columns)
    names = max(NAMES, LETTER * max(map(len, row_names), default=0))
    side = min(1.0, (style.WIDTH - names) / (columns * len(panels)), _height(rows, row_names))
    figure = _figure((len(panels) * columns * side + names, rows * side + 0.3 + 0.4 * bool(title)))
    for number, (axes, (name, x)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)
    ):
        _sheet(axes, x, columns, row_names if number == 0 else (), ())
        axes.set_title(name)
    if title:
        figure.suptitle(title)
    return figure


@_styled
def guidance_grid(x: Float[Tensor, "k g c h w"], class_names: Sequence[str], guidance: Sequence[float]) -> Figure:
    """Samples of k classes (rows) at g values of guidance (columns), each column from the same noise."""
    k, g = x.shape[:2]
    if (k, g) != (len(class_names), len(guidance)):
        raise ValueError(
            f"x has {k} rows and {g} columns of images, but there are {len(class_names)} classes and {len(guidance)} "
            "values of guidance; give one image for each pair"
        )
    names = [f"{value:g}" for value in guidance]
    return image_grid(x.flatten(0, 1), g, class_names, names, column_axis="guidance $g$ (0 is off)")


@_styled
def trajectory(
    x: Float[Tensor, "b c h w"],
    states: Sequence[Float[Tensor, "b c h w"]],
    rows: int = 4,
    image_names: Sequence[str] = (),
) -> Figure:
    """From image to noise: the first `rows` images, then the state after each block, x^1 ... x^T.

    x: what the flow was given, shown on [-1, 1]. states: the latents as images, shown on [-3, 3], the same for all. Under
    each column stands the RMS over the whole batch, the root of the mean square; 1 for standard normal noise. image_names:
    of the images of x, as their classes, beside the rows.
    """
    columns = [x, *states]
    names = ["$x$", *(f"$x^{{{i}}}$" for i in range(1, len(states))), "$z$"]
    scaled = [columns[0].clamp(-1, 1), *(state.clamp(-STATE_RANGE, STATE_RANGE) / STATE_RANGE for state in states)]
    rms = [float(column.double().square().mean().sqrt()) for column in columns]
    rows = min(rows, len(x))
    beside = LETTER * max(map(len, image_names[:rows]), default=0)
    side = min(1.2, (style.WIDTH - beside) / len(columns))
    figure = _figure((max(len(columns) * side + beside, 6.5), rows * side + 1.1))
    axes = figure.subplots()
    sheet = torch.stack([column[:rows] for column in scaled], 1).flatten(0, 1)
    _sheet(axes, sheet, len(columns), image_names[:rows], ())
    axes.set_xticks(axes.get_xticks(), names, parse_math=True)
    below = axes.secondary_xaxis("bottom")
    below.set_xticks(axes.get_xticks(), [f"{value:.2f}" for value in rms])
    _bare(below)
    figure.supxlabel(
        f"numbers: RMS of the state over {len(x)} images (1 for standard normal noise)\n"
        f"grey: $x$ from black -1 to white +1; all others from black -{STATE_RANGE:g} to white +{STATE_RANGE:g}",
        fontsize=12,
    )
    return figure


@_styled
def inversion(
    x: Float[Tensor, "b c h w"],
    back: Float[Tensor, "b c h w"],
    columns: int = 8,
    image_names: Sequence[str] = (),
) -> Figure:
    """What went in, what came back, and |difference| on a log colour scale, with its maximum over the whole batch.

    x, back: (b, c, h, w); the first `columns` are shown. A difference of exactly 0 is drawn as the smallest other one.
    image_names: of the images of x, as their classes, above the columns.
    """
    from matplotlib.colors import LogNorm

    error = (back.double() - x.double()).abs().amax(dim=1, keepdim=True)
    peak, positive = float(error.max()), error[error > 0]
    low = max(float(positive.min()), peak * 1e-4) if len(positive) else 1e-20
    high = max(peak, 10 * low)
    columns = min(columns, len(x))
    side = min(1.2, (style.WIDTH - NAMES) / columns)
    figure = _figure((max(columns * side + NAMES, 7.0), 3 * side + 1.3))
    top, bottom = figure.subplots(2, 1, height_ratios=(2, 1))
    over = _fitted(image_names[:columns], side)
    _sheet(top, torch.cat([x[:columns], back[:columns]]), columns, ("image", "inverted"), over)
    top.tick_params(axis="x", labelsize=SMALL)
    top.set_title(f"largest |difference| over {len(x)} images: {peak:.1e}, on pixels in [-1, 1]")
    # `tile` takes [-1, 1]: positions on the log scale go through it, and the white lines between images stay white
    position = (error[:columns].clamp_min(low) / low).log() / math.log(high / low)
    sheet = tile(2 * position.float() - 1, columns, GAP).squeeze(-1).double() / 255
    gap = tile(torch.full_like(position, -1).float(), columns, GAP).squeeze(-1) == 255
    values = (low * (high / low) ** sheet).masked_fill(gap, float("nan"))
    picture = bottom.imshow(values.numpy(), cmap="viridis", norm=LogNorm(low, high))
    _label(bottom, columns, 1, x.shape[-2:], ("|difference|",), ())
    figure.colorbar(picture, ax=bottom, location="bottom", label="|difference| (log scale)", aspect=50, shrink=0.6)
    return figure


@_styled
def margins(scores: Float[Tensor, "b k"], labels: Int[Tensor, " b"]) -> Figure:
    """How clearly a flow classifies: log p(x | true class) minus that of the best wrong class, in nats, over b images.

    scores: log p(x | k) for each class, of `labcore.evaluate.bayes_scores`. Above 0 is classified right. The axis is cut
    at the 1st and 99th percentile, with what lies outside in the outermost bars.
    """
    own = scores.gather(1, labels[:, None])
    rivals = scores.scatter(1, labels[:, None], -float("inf")).amax(1, keepdim=True)
    margin = (own - rivals).squeeze(1).double().cpu()
    low, high = margin.quantile(0.01).item(), margin.quantile(0.99).item()
    width = max(high, 0.0, -low) / 20 or 1.0
    first, last = math.floor(min(low, 0.0) / width), math.ceil(max(high, 0.0) / width)
    edges = torch.arange(first, last + 1).double() * width  # 0 is an edge
    figure = _figure((style.WIDTH, 3.6))
    axes = figure.subplots()
    cut = margin.clamp(float(edges[0]), float(edges[-1]) - 1e-9 * width)
    for part, name, colour in ((cut > 0, "right", "blue"), (cut <= 0, "wrong", "orange")):
        label = f"{name}: {int(part.sum())} of {len(margin)}"
        axes.hist(cut[part].numpy(), edges.numpy(), color=style.COLOURS[colour], edgecolor="white", label=label)
    axes.axvline(0, color=style.COLOURS["black"], linewidth=1.5)
    axes.set(
        xlabel="log p(x | true class) - log p(x | best wrong class), nats; outermost bars: and beyond", ylabel="images"
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(False, axis="x")
    axes.legend()
    return figure


def _figure(size: tuple[float, float]) -> Figure:
    """An empty figure of `size` inches that belongs to no pyplot state, and that a notebook shows when it is named."""
    return _shown()(figsize=size, layout="constrained")


@cache
def _shown() -> type[Figure]:
    """The class of figures here: matplotlib's, which by itself shows in a notebook only after pyplot has set that up."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            buffer = BytesIO()
            self.savefig(buffer, format="png", dpi=self.dpi, bbox_inches="tight", pad_inches=0.08)
            return buffer.getvalue()

        def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
            printer.text(described(self))

    return Shown


def _height(rows: int, row_names: Sequence[str]) -> float:
    """Inches of an image in a grid of so many rows: what fits a screen, and at least a line where rows have names."""
    return max(TALLEST / rows, LINE if row_names else 0.0)


def _fitted(names: Sequence[str], side: float) -> tuple[str, ...]:
    """Names in small letters that fit images `side` inches wide."""
    return tuple(shortened(shown(name), 72 * side - 2, SMALL) for name in names)


def _sheet(
    axes: Axes,
    x: Tensor,
    columns: int,
    row_names: Sequence[str],
    column_names: Sequence[str],
    image_names: Sequence[str] = (),
    side: float = 1.0,
) -> None:
    """Images in [-1, 1] tiled into `axes`, with names at the middle of each row, above each column, and under each image.

    side: inches of an image, by which names under images are shortened.
    """
    if len(image_names) not in (0, len(x)):
        raise ValueError(f"{len(image_names)} image names for {len(x)} images; give one name for each, or none")
    h, w = x.shape[-2:]
    below = math.ceil(LINE / side * h) if image_names else 0
    x = F.pad(x.detach().float(), (0, 0, 0, below), value=1.0)
    sheet = tile(x, columns, GAP)
    axes.imshow(sheet.squeeze(-1).numpy(), vmin=0, vmax=255)
    _label(axes, columns, -(-len(x) // columns), x.shape[-2:], row_names, column_names)
    for i, (name, short) in enumerate(zip(image_names, _fitted(image_names, side), strict=True)):
        row, column = divmod(i, columns)
        middle, top = column * (w + GAP) + (w - 1) / 2, row * (h + below + GAP) + h + below / 2 - 0.5
        axes.text(middle, top, short, size=SMALL, ha="center", va="center", parse_math=False, gid=shown(name))


def _label(
    axes: Axes, columns: int, rows: int, size: Sequence[int], row_names: Sequence[str], column_names: Sequence[str]
) -> None:
    """Names beside rows and above columns of a tiled picture; no frame, no ticks, no grid."""
    h, w = size
    if len(row_names) not in (0, rows) or len(column_names) not in (0, columns):
        raise ValueError(
            f"{len(row_names)} row names and {len(column_names)} column names for {rows} rows and {columns} columns; "
            "give one name for each, or none"
        )
    above, left = [shown(name) for name in column_names], [shown(name) for name in row_names]
    axes.set_xticks(_middles(columns, w), above or [""] * columns, parse_math=False)
    axes.set_yticks(_middles(rows, h), left or [""] * rows, parse_math=False)
    axes.xaxis.tick_top()
    _bare(axes)


def _middles(count: int, side: int) -> list[float]:
    """Middles of so many images of `side` pixels that `tile` put next to each other."""
    return [i * (side + GAP) + (side - 1) / 2 for i in range(count)]


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
