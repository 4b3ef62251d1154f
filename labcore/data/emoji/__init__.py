"""Emoji of Google's Noto Color Emoji as a data set of colour pictures. See README.md and LICENSE.

    emoji-32  32x32 pixels on white, in one losslessly packed file that ships with labcore
    emoji     the same emoji at any size up to 128 pixels, from the font file of Debian's package (`labcore.data.emoji.font`)

The classes are Unicode's nine groups of emoji, of very different sizes. Every 10th family of a class is for testing, where a
family is an emoji with all its skin tones and genders: variants of one picture never lie on both sides of the split. Pictures
that equal an earlier one at 32 pixels are left out. Both rules are our choice.
"""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

PIXELS = Path(__file__).with_name("emoji-32.xz")
"""Pictures (n, 32, 32, 3) as uint8, each transposed, with green subtracted from red and blue, which packs them smaller."""
TABLE = Path(__file__).with_name("emoji.tsv.xz")
"""One line for each picture: its code points in hexadecimal, the number of its class, and its split, separated by tabs."""
SIDE = 32
CLASSES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
SHA256 = "ea15893c2e818739337504be304a943c4a163c95c2450fea2b5a143a96b8bf2f"
"""Hex sha256 of the pictures (n, 32, 32, 3) in C order, followed by the table."""

Pictures = UInt8[np.ndarray, "n 32 32 3"]


class Entry(NamedTuple):
    """One emoji. code_points: the code points of its sequence, without variation selectors."""

    code_points: tuple[int, ...]
    label: int
    split: str


def entries() -> list[Entry]:
    """List all emoji, in the order of the pictures."""
    return parse_table(lzma.decompress(TABLE.read_bytes()).decode())


def parse_table(text: str) -> list[Entry]:
    """Return the emoji of a table (see `TABLE`)."""
    lines = (line.split("\t") for line in text.splitlines())
    return [Entry(tuple(int(code, 16) for code in codes.split()), int(label), split) for codes, label, split in lines]


def format_table(emoji: list[Entry]) -> str:
    """Return the table of some emoji (see `TABLE`)."""
    return "".join(
        f"{' '.join(f'{code:X}' for code in each.code_points)}\t{each.label}\t{each.split}\n" for each in emoji
    )


def unpack() -> Pictures:
    """Read all RGB pictures of the packed file, without comparing hashes."""
    packed = np.frombuffer(lzma.decompress(PIXELS.read_bytes()), np.uint8).reshape(-1, SIDE, SIDE, 3).copy()
    packed[..., (0, 2)] += packed[..., 1:2]
    return packed.swapaxes(1, 2)


def digest(pictures: Pictures, emoji: list[Entry]) -> str:
    """Return the hex sha256 of the pictures' bytes in C order, followed by the table."""
    return hashlib.sha256(np.ascontiguousarray(pictures).tobytes() + format_table(emoji).encode()).hexdigest()


def read_split(split: str) -> tuple[UInt8[np.ndarray, "n 3 32 32"], UInt8[np.ndarray, " n"]]:
    """Read pictures (n, 3, 32, 32) and labels (n,) of "train" or "test".

    Raises ValueError if the contents of the files do not have the expected `SHA256`.
    """
    pictures, emoji = unpack(), entries()
    if digest(pictures, emoji) != SHA256:
        raise ValueError(
            f"{PIXELS} and {TABLE.name} are not the packed data set that belongs to this version of labcore (they have another "
            "sha256). Install labcore again, or rebuild them with `python -m labcore.data.emoji.make`"
        )
    chosen = [number for number, each in enumerate(emoji) if each.split == split]
    labels = np.array([emoji[number].label for number in chosen], np.uint8)
    return np.ascontiguousarray(pictures[chosen].transpose(0, 3, 1, 2)), labels
