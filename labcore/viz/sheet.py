"""Grids of images as PNG bytes, with names, drawn in milliseconds: what a slider can show while it moves.

A matplotlib figure takes longer to draw than a learned inverse to make thirty-six images; these are put together from pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from labcore.data.transforms import tile

GAP = 2
"""White pixels between two images, before they are enlarged."""
LETTERS = 15
"""Height of letters in pixels of the picture."""
MARGIN = 6


def grid_png(
    x: Float[Tensor, "b c h w"],
    columns: int,
    scale: int = 3,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
) -> bytes:
    """Images (b, c, h, w) in [-1, 1], clipped, row by row, each pixel `scale` wide, names beside and above, as a PNG."""
    pixels = tile(x, columns, GAP).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return names_around(pixels, len(x), columns, scale * GAP, row_names, column_names)


def names_around(
    pixels: UInt8[Tensor, "rows cols c"],
    images: int,
    columns: int,
    gap: int,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
) -> bytes:
    """A PNG of a sheet of `images` in `columns`, `gap` pixels apart, with names. ValueError for too few or too many names."""
    from PIL import Image, ImageDraw

    rows = -(-images // columns)
    for what, names, count in (("rows", row_names, rows), ("columns", column_names, columns)):
        if names and len(names) != count:
            raise ValueError(f"{len(names)} names for {count} {what}: {', '.join(names)}; give one for each")
    left = max((_length(name) for name in row_names), default=-MARGIN) + MARGIN
    step = (pixels.shape[1] + gap) / columns
    slanted = any(_length(name) > step - MARGIN for name in column_names)
    above = 0 if not column_names else max(map(_length, column_names)) + MARGIN if slanted else LETTERS + 2 * MARGIN
    sheet = Image.new("RGB", (left + pixels.shape[1], above + pixels.shape[0]), "white")
    sheet.paste(_image(pixels), (left, above))
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(row_names):
        middle = above + (i + 0.5) * (pixels.shape[0] + gap) / rows - gap / 2
        draw.text((left - MARGIN, middle), name, "black", _font(), anchor="rm")
    for i, name in enumerate(column_names):
        middle = left + (i + 0.5) * step - gap / 2
        if slanted:
            _upright(sheet, name, round(middle), above - MARGIN)
        else:
            draw.text((middle, above - MARGIN), name, "black", _font(), anchor="ms")
    out = BytesIO()
    sheet.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _image(pixels: UInt8[Tensor, "rows cols c"]) -> Any:
    from PIL import Image

    return Image.fromarray(pixels.squeeze(-1).contiguous().numpy()).convert("RGB")


def _upright(sheet: Any, name: str, middle: int, bottom: int) -> None:
    """A name that is too long for its column, turned by 90 degrees."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (_length(name), LETTERS + 4), "white")
    ImageDraw.Draw(strip).text((0, (LETTERS + 4) / 2), name, "black", _font(), anchor="lm")
    turned = strip.rotate(90, expand=True)
    sheet.paste(turned, (middle - turned.width // 2, bottom - turned.height))


def _length(name: str) -> int:
    return int(_font().getlength(name) + 1)


@cache
def _font() -> Any:
    """The letters of matplotlib's figures, so that both kinds of pictures look alike."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", LETTERS)
