"""Conversion of a picture file to a square of uint8 pixels.

A picture is rotated by its EXIF orientation, put on a background if it is transparent, converted to 8 bits (16-bit grey
from 0..65535 to 0..255) and to grey or RGB, cropped to its middle square and resized. The default background is white, our
choice. Only the first frame of an animation is used. There are two crops:

    fit  take the largest middle square, and resize it by one bicubic filter (Pillow's ImageOps.fit); the default
    adm  as for ADM's reference batches: halve by a box filter while the shorter side has at least twice the size, resize by a
         bicubic filter, and take the middle square (Dhariwal and Nichol, arXiv 2105.05233, code)
"""

from __future__ import annotations

import io
import os
import re
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

Crop = Literal["fit", "adm"]
CROPS = get_args(Crop)
PICTURE_VERSION = 1
"""Version of `read_picture`. Raise it with every change that makes a file give other pixels. Fingerprints of data sets
include every version but the first, and features, latents and statistics are stored by fingerprint."""
WHITE = "white"
"""Default background of transparent pictures."""
ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "GIF": b";"}
"""Last bytes of a complete file, by Pillow's name of its format; zeros may follow them."""
LONGEST = 100
"""Largest ratio of the sides of a picture for "adm", which enlarges the whole picture before it crops; our choice."""


def check_how(image_size: int, channels: int | None, crop: str, background: str = WHITE) -> None:
    """Raise ValueError unless image_size >= 1, channels is 1, 3 or None, crop is in `CROPS`, and background is a colour."""
    colour_of(background)
    if image_size < 1:
        raise ValueError(f"image_size={image_size}: give the side of the images in pixels, 1 or more")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: give 1 (grey), 3 (RGB), or None to keep the files' own")
    if crop not in CROPS:
        raise ValueError(f"crop={crop!r}: allowed are {', '.join(CROPS)}")


def read_picture(
    source: str | os.PathLike[str] | io.IOBase,
    image_size: int,
    channels: int,
    crop: Crop = "fit",
    called: str | None = None,
    background: str = WHITE,
) -> UInt8[Tensor, "c s s"]:
    """Read a picture as uint8 (channels, image_size, image_size).

    Args:
        source: a path or an open file.
        image_size: side in pixels.
        channels: 1 (grey) or 3 (RGB).
        crop: "fit" (default) or "adm", see the module.
        called: name of the picture in messages; default the source.
        background: colour behind transparent pixels, as `colour_of` takes it; default white.

    Raises:
        ValueError: the picture cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as image:
            refuse_program(image)
            _scale_transparent_colour(image)
            ImageOps.exif_transpose(image, in_place=True)
            pixels = _eight_bit(image, "L" if channels == 1 else "RGB", colour_of(background))
            square = _fit(pixels, image_size) if crop == "fit" else _adm(pixels, image_size)
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error and more
        raise ValueError(
            f"{called or source} cannot be read as an image ({why(error)}); repair or remove it"
        ) from error
    return torch.from_numpy(np.array(square)).view(image_size, image_size, channels).permute(2, 0, 1).contiguous()


class Facts(NamedTuple):
    """Facts of a picture's file.

    size: (width, height) in pixels. mode: Pillow's name of its pixel format. transparent: whether it has transparent pixels.
    """

    size: tuple[int, int]
    mode: str
    transparent: bool


def picture_facts(source: str | os.PathLike[str] | io.IOBase) -> Facts:
    """Return the facts of a picture that `read_picture` can read, given as a path or an open file. Raises as Pillow does."""
    from PIL import Image

    with Image.open(source) as image:
        transparent = image.has_transparency_data
        if transparent and not image.mode.startswith("I"):  # Pillow makes no alpha channel of 16-bit grey
            transparent = image.convert("RGBA").getchannel("A").getextrema()[0] < 255
        return Facts(image.size, image.mode, transparent)


def colour_of(background: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of a colour by name or as #rrggbb. Raises ValueError for anything else."""
    from PIL import ImageColor

    try:
        colour = ImageColor.getrgb(background)
    except ValueError:
        colour = ()
    if len(colour) != 3:
        raise ValueError(f"background={background!r}: give a colour by its name, such as white, or as #rrggbb")
    return colour


def background_identity(background: str) -> tuple[Any, ...]:
    """Return the background's part of a fingerprint: () for white, the only background of earlier versions."""
    colour = colour_of(background)
    return () if colour == colour_of(WHITE) else ("background", colour)


def _scale_transparent_colour(image) -> None:
    """Scale the transparent colour of a PNG to 8 bits, as its pixels are; Pillow leaves it in the file's 2, 4 or 16 bits.

    Of 16-bit colours only the high bytes are kept, so all colours that agree in these become transparent.
    """
    colour, raw = image.info.get("transparency"), image.tile[0][3] if image.format == "PNG" and image.tile else None
    if raw in ("L;2", "L;4") and isinstance(colour, int):
        image.info["transparency"] = colour * {"L;2": 85, "L;4": 17}[raw]
    if raw == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def refuse_program(image) -> None:
    """Raise ValueError for PostScript: Pillow would start another program to draw it, and PostScript can run commands."""
    if image.format == "EPS":
        raise ValueError("PostScript is a program and not a picture; save it as PNG")


def refuse_cut_off(image, path: str | os.PathLike[str]) -> None:
    """Raise OSError for an opened PNG, JPEG or GIF that was cut off.

    Only a file without the last bytes of its format is decoded.
    """
    end = ENDS.get(image.format)
    if end is None:
        return
    with open(path, "rb") as file:
        file.seek(-min(os.path.getsize(path), 1024), os.SEEK_END)
        complete = file.read().rstrip(b"\0").endswith(end)
    if not complete:
        image.load()


def is_grey(mode: str) -> bool:
    """Return whether a mode of Pillow is one of grey values."""
    return mode[0] in "1LI" and mode != "LAB"


def why(error: Exception) -> str:
    """Return Pillow's message without the memory address of an open file."""
    return re.sub(r" <_io\.BytesIO[^>]*>", "", str(error))


def _fit(image, image_size: int):
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)


def _adm(image, image_size: int):
    from PIL import Image

    while min(image.size) >= 2 * image_size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = image_size / min(image.size)
    if max(image.size) > LONGEST * min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels: one side is more than {LONGEST} times the other")
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return image.crop((left, top, left + image_size, top + image_size))


def _eight_bit(image, mode: str, background: tuple[int, int, int]):
    """Convert a Pillow image to mode "L" or "RGB", 8 bits per channel, with the background in transparent areas."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point grey values have no range; save the picture with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if isinstance(image.info.get("transparency"), int):  # the grey value that is transparent
            grey = Image.new("RGB", (1, 1), background).convert("L").getpixel((0, 0))
            values = np.where(values == image.info["transparency"], 257 * grey, values)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"grey values from {values.min()} to {values.max()}; allowed are 0 to 65535")
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image.convert(mode)
