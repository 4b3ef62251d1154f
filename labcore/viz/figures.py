"""Figures of images, states and inverses of a flow. Each function takes tensors or records, and returns a matplotlib Figure.

Images are in [-1, 1] (black -1, white +1) and clipped for display; all other scales are written in the figure. Figures are not
registered with pyplot. A notebook shows a figure that is the last value of its cell.
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
NAMES = 1.2  # least width of names next to rows, in inches
LETTER = 0.1  # approximate width of a letter, in inches
TALLEST = 7.0  # largest total height of the rows of images in inches, so that a figure fits a screen
LINE = 0.2  # height of a line of text in inches; rows with names are at least as high
SMALL = 9  # size of names under images, in points
STATE_RANGE = 3.0  # states are shown on [-3, 3]: 99.7% of standard normal values


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Return the function with the lab's style applied while it draws."""

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
    """Draw images (b, c, h, w) in [-1, 1] as a grid, row by row, with optional names of rows, columns and images.

    Names are plain text; a long name under an image is shortened with an ellipsis. `labcore.viz.class_labels.by_class` makes
    names of classes. Raises ValueError for another number of names.
    """
    rows = -(-len(x) // columns)
    beside = max(NAMES, LETTER * max(map(len, row_names))) if row_names else 0.0
    beside += 0.3 * bool(row_axis)
    side = min(1.0, (style.WIDTH - beside) / columns, _height(rows, row_names))
    above = 0.3 * (bool(title) + bool(column_names) + bool(column_axis))
    longest = LETTER * max(map(len, column_names), default=0)
    slanted = longest > side  # horizontal names would overlap
    if slanted:
        side = min(side, (style.WIDTH - beside - 0.7 * longest) / columns)
        beside, above = beside + 0.7 * longest, above + 0.5 * longest
    figure = _figure((columns * side + beside, rows * (side + LINE * bool(image_names)) + above))
    axes = figure.subplots()
    _sheet(axes, x, columns, row_names, column_names, image_names, side)
    if slanted:
        size = min(axes.get_xticklabels()[0].get_fontsize(), 72 * 0.5 * side)  # slanted lines are closer together
        for name in axes.get_xticklabels():
            name.set(rotation=35, ha="left", rotation_mode="anchor", fontsize=size)
    axes.set(title=title, xlabel=column_axis, ylabel=row_axis)
    return figure


@_styled
def beside(
    panels: Mapping[str, Float[Tensor, "b c h w"]], columns: int, row_names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Draw sets of images {name: (b, c, h, w)} of equal size next to one another, for example from two models."""
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
    """Draw samples of k classes (rows) at g values of guidance (columns), all columns from the same noise.

    Raises ValueError if x does not fit the classes and values.
    """
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
    """Draw the path from image to noise: the first `rows` images, and the state after each block, x^1 ... x^T.

    The RMS (root mean square) of each state over the whole batch is written below its column; it is 1 for standard normal
    noise.

    Args:
        x: images that the flow was given, shown on [-1, 1].
        states: state after each block, as images, all shown on [-3, 3].
        rows: number of images; default 4.
        image_names: names next to the rows, for example classes; default none.
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
        f"grey scale: $x$ from black -1 to white +1; the other states from black -{STATE_RANGE:g} to white +{STATE_RANGE:g}",
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
    """Draw images, their reconstructions and |difference| on a log colour scale, with its maximum over the whole batch.

    Args:
        x: images (b, c, h, w) that the flow was given.
        back: images (b, c, h, w) that the inverse returned.
        columns: number of images that are shown; default 8.
        image_names: names above the columns, for example classes; default none.

    A difference of 0 is drawn as the smallest nonzero difference.
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
    """Draw a histogram of log p(x | true class) - log p(x | best wrong class), in nats, over b images.

    scores: log p(x | k) for each class, of `labcore.evaluate.bayes_scores`. A margin above 0 is a correct classification. The
    axis ends at the 1st and 99th percentile; images outside are counted in the outermost bars.
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
        xlabel="log p(x | true class) - log p(x | best wrong class), nats; outermost bars include all beyond",
        ylabel="images",
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(False, axis="x")
    axes.legend()
    return figure


def _figure(size: tuple[float, float]) -> Figure:
    """Make an empty figure of `size` inches that is not registered with pyplot, and that notebooks can show."""
    return _shown()(figsize=size, layout="constrained")


@cache
def _shown() -> type[Figure]:
    """Return matplotlib's Figure class with display methods for notebooks, which otherwise only pyplot sets up."""
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
    """Return the height of an image in inches, so that `rows` rows fit a screen, and named rows have room for a line."""
    return max(TALLEST / rows, LINE if row_names else 0.0)


def _fitted(names: Sequence[str], side: float) -> tuple[str, ...]:
    """Shorten names in small letters to the width of images, `side` inches."""
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
    """Draw images in [-1, 1] as a grid into `axes`, with names next to rows, above columns and under images.

    side: width of an image in inches; longer names under images are shortened.
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
    """Write names next to rows and above columns of a grid; remove frame, ticks and grid lines."""
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
    """Return the middles of `count` images of `side` pixels in a picture of `tile`."""
    return [i * (side + GAP) + (side - 1) / 2 for i in range(count)]


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
