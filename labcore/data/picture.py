"""One picture file as a square of pixels.

A picture is turned upright by its EXIF orientation, laid on white if it has transparency, brought to 8 bits (16-bit grey from
0..65535 to 0..255) and to grey or RGB, then cropped to its middle square and resized. White is our choice. Of an animation the
first frame counts. Two crops:

    fit  the largest middle square, resized by one bicubic filter (Pillow's ImageOps.fit); the default
    adm  as the pictures behind ADM's reference batches: halved by a box filter while the shorter side has twice the size or
         more, brought to the size by a bicubic filter, and the middle of that (Dhariwal and Nichol, arXiv 2105.05233, code)
"""

from __future__ import annotations

import io
import os
import re
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

Crop = Literal["fit", "adm"]
CROPS = get_args(Crop)
PICTURE_VERSION = 1
"""Version of what `read_picture` gives. Raise it with every change after which a file gives other pixels: fingerprints of data
sets hold every version but the first, and features, latents and statistics are kept by fingerprint."""
LONGEST = 100
"""Times its shorter side that a picture's longer one may have for "adm", which enlarges all of it; our choice."""


def check_how(image_size: int, channels: int | None, crop: str) -> None:
    """ValueError unless pictures can be brought to that."""
    if image_size < 1:
        raise ValueError(f"image_size={image_size}: give the side of the images in pixels, 1 or more.")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: give 1 (grey), 3 (RGB), or None to take what the files are.")
    if crop not in CROPS:
        raise ValueError(f"crop={crop!r}: allowed are {', '.join(CROPS)}.")


def read_picture(
    source: str | os.PathLike[str] | io.IOBase,
    image_size: int,
    channels: int,
    crop: Crop = "fit",
    called: str | None = None,
) -> UInt8[Tensor, "c s s"]:
    """A file, or an open one, as uint8 (channels, image_size, image_size).

    Raises ValueError, with what it is `called`, if it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as image:
            refuse_program(image)
            _scale_transparent_colour(image)
            ImageOps.exif_transpose(image, in_place=True)
            pixels = _eight_bit(image, "L" if channels == 1 else "RGB")
            square = _fit(pixels, image_size) if crop == "fit" else _adm(pixels, image_size)
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error and more
        raise ValueError(
            f"{called or source} cannot be read as an image ({why(error)}); repair or remove it."
        ) from error
    return torch.from_numpy(np.array(square)).view(image_size, image_size, channels).permute(2, 0, 1).contiguous()


def _scale_transparent_colour(image) -> None:
    """Bring the transparent colour of a PNG to the pixels' 8 bits, which Pillow leaves in the file's 2, 4 or 16.

    Of 16-bit colours the high bytes count, so colours that agree in these are transparent too.
    """
    colour, raw = image.info.get("transparency"), image.tile[0][3] if image.format == "PNG" and image.tile else None
    if raw in ("L;2", "L;4") and isinstance(colour, int):
        image.info["transparency"] = colour * {"L;2": 85, "L;4": 17}[raw]
    if raw == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def refuse_program(image) -> None:
    """ValueError for an opened file that Pillow would have another program draw: PostScript can run commands."""
    if image.format == "EPS":
        raise ValueError("PostScript is a program and not a picture; save it as PNG")


def is_grey(mode: str) -> bool:
    """Whether pictures of one of Pillow's modes have grey values."""
    return mode[0] in "1LI" and mode != "LAB"


def why(error: Exception) -> str:
    """What Pillow says, without the address of an open file."""
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
        raise ValueError(f"{image.width} x {image.height} pixels are a strip, of more than {LONGEST} times its width")
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return image.crop((left, top, left + image_size, top + image_size))


def _eight_bit(image, mode: str):
    """A Pillow image in mode "L" or "RGB", 8 bits a channel, on white where it is transparent."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point grey values have no range; save it as 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if isinstance(image.info.get("transparency"), int):  # a grey value that stands for nothing
            values = np.where(values == image.info["transparency"], 65535, values)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"grey values from {values.min()} to {values.max()}, where 0 to 65535 is allowed")
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)
