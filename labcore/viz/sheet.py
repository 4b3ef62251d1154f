"""Grids of images with names as PNG bytes, drawn in milliseconds, so that they can follow a slider while it moves.

A matplotlib figure takes longer to draw than a student takes to sample 36 images; these grids are assembled from pixels. The
names are also written into the file as its description, a PNG text that programs can read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from labcore.data.transforms import tile
from labcore.viz.class_labels import length, letters, shortened, shown
from labcore.viz.words import DESCRIPTION, grid_in_words

GAP = 2
"""White pixels between two images, before images are enlarged."""
LETTERS = 15
"""Height of the letters of row and column names, in pixels of the picture."""
SMALL = 12
"""Height of the letters of names under images, in pixels of the picture."""
WIDEST = 96
"""Largest width in pixels of a name under an image that is narrower than its name; our choice."""
MARGIN = 6
LINE = LETTERS + 4
"""Height of a line of text in pixels."""


def save_grid(
    x: Float[Tensor, "b c h w"], columns: int, path: str | Path, scale: int = 1, **names: Sequence[str]
) -> None:
    """Write the PNG of `grid_png` with the same names to `path`; create a missing folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet, words = _drawn(x, columns, scale, **names)
    Path(path).write_bytes(_encoded(sheet, words))


def grid_png(
    x: Float[Tensor, "b c h w"],
    columns: int,
    scale: int = 3,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    image_names: Sequence[str] = (),
) -> bytes:
    """Return a PNG of images (b, c, h, w) in [-1, 1], clipped, row by row; each pixel is enlarged to scale x scale.

    Names are next to rows, above columns and under images; a long name under an image is shortened with an ellipsis. Images
    that are smaller than their names get a white margin. Raises ValueError for another number of names.
    """
    sheet, words = _drawn(x, columns, scale, row_names, column_names, image_names)
    return _encoded(sheet, words, quick=True)


def _drawn(
    x: Tensor,
    columns: int,
    scale: int,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    image_names: Sequence[str] = (),
) -> tuple[Any, str]:
    """Draw the grid as a Pillow image, and return it with its names in words."""
    rows = -(-len(x) // columns)
    row_names, column_names, image_names = (
        tuple(map(shown, names)) for names in (row_names, column_names, image_names)
    )
    _check_names(("rows", row_names, rows), ("columns", column_names, columns), ("images", image_names, len(x)))
    x = _with_room(x.detach(), scale, row_names, column_names, image_names)
    pixels = tile(x, columns, GAP).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    sheet = _names_around(pixels, rows, columns, scale * GAP, row_names, column_names)
    _names_under(sheet, pixels, columns, scale, x.shape[-2:], image_names)
    return sheet, grid_in_words(row_names, column_names, image_names)


def _check_names(*kinds: tuple[str, Sequence[str], int]) -> None:
    for what, names, count in kinds:
        if names and len(names) != count:
            raise ValueError(f"{len(names)} names for {count} {what}: {', '.join(names)}; give one for each")


def _with_room(x: Tensor, scale: int, rows: Sequence[str], columns: Sequence[str], images: Sequence[str]) -> Tensor:
    """Add a white margin to images that are smaller than a line of text, and space below for their names."""
    h, w = x.shape[-2:]
    line = math.ceil(LINE / scale) - GAP
    letters_wide = min(WIDEST, max(_lengths(images, SMALL)) + MARGIN) if images else 0
    wide = max(w, line if columns else 0, math.ceil(letters_wide / scale))
    high = max(h, line if rows else 0)
    below = math.ceil((SMALL + 4) / scale) if images else 0
    left, top = (wide - w) // 2, (high - h) // 2
    return F.pad(x, (left, wide - w - left, top, high - h - top + below), value=1.0)


def _names_around(
    pixels: UInt8[Tensor, "rows cols c"],
    rows: int,
    columns: int,
    gap: int,
    row_names: Sequence[str],
    column_names: Sequence[str],
) -> Any:
    """Draw a sheet as a Pillow image with names next to rows and above columns; its images are `gap` pixels apart."""
    from PIL import Image, ImageDraw

    left = max(_lengths(row_names, LETTERS)) + MARGIN if row_names else 0
    step = (pixels.shape[1] + gap) / columns
    longest = max(_lengths(column_names, LETTERS))
    upright = longest > step - MARGIN
    above = 0
    if column_names:
        above = longest + MARGIN if upright else LETTERS + 2 * MARGIN
    shown_pixels = Image.fromarray(
        pixels.squeeze(-1).contiguous().numpy()
    )  # grey images make a grey sheet: quick to encode
    sheet = Image.new(shown_pixels.mode, (left + pixels.shape[1], above + pixels.shape[0]), "white")
    sheet.paste(shown_pixels, (left, above))
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(row_names):
        middle = above + (i + 0.5) * (pixels.shape[0] + gap) / rows - gap / 2
        draw.text((left - MARGIN, middle), name, "black", letters(LETTERS), anchor="rm")
    for i, name in enumerate(column_names):
        middle = left + (i + 0.5) * step - gap / 2
        if upright:
            _upright(sheet, name, round(middle), above - MARGIN)
        else:
            draw.text((middle, above - MARGIN), name, "black", letters(LETTERS), anchor="ms")
    return sheet


def _names_under(
    sheet: Any, pixels: Tensor, columns: int, scale: int, size: Sequence[int], image_names: Sequence[str]
) -> None:
    """Write names into the white space below images of `size`; `pixels` are the lower right part of the sheet."""
    from PIL import ImageDraw

    draw, left, above = ImageDraw.Draw(sheet), sheet.width - pixels.shape[1], sheet.height - pixels.shape[0]
    h, w = size
    for i, name in enumerate(image_names):
        row, column = divmod(i, columns)
        middle = left + scale * (column * (w + GAP) + w / 2)
        bottom = above + scale * (row * (h + GAP) + h)
        fitting = shortened(name, scale * w - MARGIN, SMALL)
        draw.text((middle, bottom - 4), fitting, "black", letters(SMALL), anchor="ms")


def _encoded(sheet: Any, words: str, quick: bool = False) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    about, out = PngInfo(), BytesIO()
    if words:
        about.add_text(DESCRIPTION, words)
    sheet.save(out, "PNG", compress_level=1 if quick else 6, pnginfo=about)
    return out.getvalue()


def _upright(sheet: Any, name: str, middle: int, bottom: int) -> None:
    """Write a name that is too long for its column, rotated by 90 degrees."""
    from PIL import Image, ImageDraw

    strip = Image.new(sheet.mode, (math.ceil(length(name, LETTERS)) + 1, LINE), "white")
    ImageDraw.Draw(strip).text((0, LINE / 2), name, "black", letters(LETTERS), anchor="lm")
    turned = strip.rotate(90, expand=True)
    sheet.paste(turned, (middle - turned.width // 2, bottom - turned.height))


def _lengths(names: Sequence[str], size: int) -> list[int]:
    """Return the width of each name in pixels; [0] if there are none."""
    return [math.ceil(length(name, size)) + 1 for name in names] or [0]
