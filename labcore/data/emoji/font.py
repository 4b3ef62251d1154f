"""Pictures of emoji from the font file NotoColorEmoji.ttf, which holds each as a PNG of 136 x 128 pixels.

The pictures are in the tables CBDT and CBLC, and GSUB has the ligatures by which a sequence of code points becomes one picture
(OpenType specification 1.9). fontTools, which matplotlib needs, reads the tables.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from labcore.data.picture import read_picture

NAME = "NotoColorEmoji.ttf"
DEBIAN = Path("fonts", "truetype", "noto", NAME)
"""Where Debian's package fonts-noto-color-emoji puts the font, below /usr/share."""
REVISION = 2.042
"""The font that emoji-32 was made of: Debian 12's fonts-noto-color-emoji 2.042-0+deb12u1."""
LARGEST = 128
"""Pixels along a side of the middle square of the font's pictures."""
SELECTOR = 0xFE0F
"""Code point that asks for a colour picture; the font's sequences do not contain it."""
HOW_TO_GET = (
    "Ways to get it: `apt-get install fonts-noto-color-emoji` (Debian, Ubuntu), or the setting data.path=<the font file, or "
    "its folder>. 'emoji-32', with 32 pixels, ships with labcore and needs no font"
)


def find_font(path: str | os.PathLike[str] | None = None) -> Path:
    """Find the font file.

    path: the font file or its folder, the only place that is searched if given. None (default) searches $LABCORE_DATA, then
    Debian's folder below each of $XDG_DATA_DIRS (default: /usr/local/share and /usr/share). Raises FileNotFoundError that
    lists the searched places.
    """
    if path is not None:
        places = [Path(path), Path(path, NAME)]
    else:
        own = os.environ.get("LABCORE_DATA")
        shares = (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
        places = ([Path(own, NAME)] if own else []) + [Path(share, DEBIAN) for share in shares if share]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"the font {NAME} was not found at {', '.join(map(str, places))}. {HOW_TO_GET}")


class EmojiFont:
    """An open font file. Raises ValueError for a file that is not a font with colour pictures."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from fontTools.ttLib import TTFont, TTLibError

        self.path = Path(path)
        try:
            font = TTFont(self.path)
            self._pictures: dict[str, Any] = font["CBDT"].strikeData[0]
            self._glyphs: dict[int, str] = font.getBestCmap()
            self._ligatures = _ligatures(font["GSUB"].table)
            self.revision = round(font["head"].fontRevision, 3)
        except (TTLibError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{path} is no font with colour pictures in a CBDT table ({error!r}). {HOW_TO_GET}"
            ) from error

    def picture(self, code_points: Sequence[int]) -> bytes:
        """Return the PNG file of a sequence. Raises KeyError if the font has none."""
        glyphs = tuple(self._glyphs[code] for code in code_points if code != SELECTOR)
        name = glyphs[0] if len(glyphs) == 1 else self._ligatures[glyphs]
        return self._pictures[name].imageData

    def pictures(self, sequences: Sequence[Sequence[int]], image_size: int) -> UInt8[Tensor, "n 3 s s"]:
        """Return the pictures of some sequences, on white, at image_size x image_size pixels, as a folder's pictures are read.

        Raises ValueError for a size outside 1..LARGEST, and for sequences that the font does not have.
        """
        if not 1 <= image_size <= LARGEST:
            raise ValueError(
                f"image_size={image_size}: the emoji of {self.path.name} have sizes of 1 to {LARGEST} pixels"
            )
        found = torch.empty(len(sequences), 3, image_size, image_size, dtype=torch.uint8)
        for number, sequence in enumerate(sequences):
            try:
                file = self.picture(sequence)
            except KeyError:
                codes = " ".join(f"U+{code:04X}" for code in sequence)
                raise ValueError(
                    f"{self.path} (revision {self.revision}) has no picture of {codes}; give another version of the font: "
                    f"revision {REVISION} has all emoji"
                ) from None
            found[number] = read_picture(io.BytesIO(file), image_size, 3, called=f"picture {number} of {self.path}")
        return found


def _ligatures(substitutions: Any) -> dict[tuple[str, ...], str]:
    """Return {sequence of glyphs: the glyph that replaces it} from all lookups of ligatures."""
    found = {}
    for lookup in substitutions.LookupList.Lookup:
        for table in lookup.SubTable if lookup.LookupType == 4 else ():
            for first, ligatures in table.ligatures.items():
                found.update({(first, *each.Component): each.LigGlyph for each in ligatures})
    return found
