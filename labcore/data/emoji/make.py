"""Make emoji-32 from the font and Unicode's list of emoji, which are in Debian's packages.

    apt-get install fonts-noto-color-emoji unicode-data
    python -m labcore.data.emoji.make [--font FILE] [--list FILE] [--check]

labcore.data.emoji describes the choice of emoji, the split and the packed files. With --check the command writes nothing and
compares the packed files with font and list. The arrays are the same on every machine; the files' bytes may differ with the
version of xz.
"""

from __future__ import annotations

import argparse
import lzma
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from labcore.data import emoji
from labcore.data.emoji.font import SELECTOR, EmojiFont, find_font
from labcore.data.splits import SplitRule

LIST = Path("/usr/share/unicode/emoji/emoji-test.txt")
"""Unicode's list of emoji, version 15.0, from Debian's package unicode-data."""
PERSON, MAN, WOMAN = 0x1F9D1, 0x1F468, 0x1F469
UNSEEN = {SELECTOR, 0x200D, 0x2640, 0x2642, *range(0x1F3FB, 0x1F400)}
"""Code points that do not distinguish families: selector, joiner, the signs of the genders, and skin tones."""

Family = tuple[int, ...]


def listed(text: str) -> list[tuple[tuple[int, ...], int]]:
    """Return (code points without selectors, number of the class) of each fully qualified emoji in Unicode's list, in order."""
    found, group = [], ""
    for line in text.splitlines():
        if title := re.match(r"# group: (.+)", line):
            group = title[1].strip()
        elif row := re.match(r"([0-9A-F ]+); fully-qualified", line):
            codes = (int(code, 16) for code in row[1].split())
            found.append((tuple(code for code in codes if code != SELECTOR), emoji.CLASSES.index(group)))
    return found


def family_of(code_points: Iterable[int]) -> Family:
    """Return the family of an emoji: its code points without skin tones, genders and selectors."""
    return tuple(PERSON if code in (MAN, WOMAN) else code for code in code_points if code not in UNSEEN)


def test_families(rows: Sequence[tuple[tuple[int, ...], int]]) -> set[tuple[int, Family]]:
    """Return every 10th family of each class, with the number of the class."""
    families = list(dict.fromkeys((label, family_of(codes)) for codes, label in rows))
    names = {f"{number:05d}": family for number, family in enumerate(families)}
    found = set()
    for label in range(len(emoji.CLASSES)):
        of_class = [name for name, family in names.items() if family[0] == label]
        found |= {names[name] for name in SplitRule().test_files(of_class)}
    return found


def build(font: EmojiFont, text: str) -> tuple[emoji.Pictures, list[emoji.Entry]]:
    """Return pictures and table. The emoji of a family follow one another; families are in the order of their first emoji."""
    rows = listed(text)
    place = {family: number for number, (codes, _) in reversed(list(enumerate(rows))) for family in [family_of(codes)]}
    rows.sort(key=lambda row: place[family_of(row[0])])
    for_test = test_families(rows)
    pictures = font.pictures([codes for codes, _ in rows], emoji.SIDE).permute(0, 2, 3, 1).numpy()
    first = {picture.tobytes(): number for number, picture in reversed(list(enumerate(pictures)))}
    kept = sorted(first.values())
    splits = ["test" if (label, family_of(codes)) in for_test else "train" for codes, label in rows]
    return pictures[kept], [emoji.Entry(*rows[number], splits[number]) for number in kept]


def pack(pictures: UInt8[np.ndarray, "n 32 32 3"], table: list[emoji.Entry]) -> None:
    """Write emoji.PIXELS and emoji.TABLE."""
    values = np.ascontiguousarray(pictures.swapaxes(1, 2))
    values[..., (0, 2)] -= values[..., 1:2]
    # lc=4, pb=0: the four high bits of the previous byte are the context of a byte; 2 % smaller here than the default
    filters = [dict(id=lzma.FILTER_LZMA2, preset=9 | lzma.PRESET_EXTREME, dict_size=1 << 24, lc=4, lp=0, pb=0)]
    emoji.PIXELS.write_bytes(lzma.compress(values.tobytes(), filters=filters))
    emoji.TABLE.write_bytes(lzma.compress(emoji.format_table(table).encode(), preset=9))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status (1: files are missing, or the arrays have another sha256)."""
    parser = argparse.ArgumentParser(prog="python -m labcore.data.emoji.make", description=__doc__.splitlines()[0])
    parser.add_argument("--font", help="NotoColorEmoji.ttf (default: look for it)")
    parser.add_argument("--list", type=Path, default=LIST, help="Unicode's emoji-test.txt (default: Debian's)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; compare the packed files with font and list"
    )
    options = parser.parse_args(arguments)
    try:
        pictures, table = build(EmojiFont(find_font(options.font)), options.list.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    found = emoji.digest(pictures, table)
    same = found == emoji.SHA256
    print(f"{len(table):,} pictures, sha256 {found}{'' if same else ', DIFFERENT'}")
    if options.check:
        same &= emoji.digest(emoji.unpack(), emoji.entries()) == found
        print(f"{emoji.PIXELS.name} {'equals' if same else 'DIFFERS FROM'} font and list")
    elif same:
        pack(pictures, table)
        print(f"wrote {emoji.PIXELS.name}, {emoji.PIXELS.stat().st_size:,} bytes, and {emoji.TABLE.name}")
    else:
        print("the arrays do not have the sha256 of labcore.data.emoji; nothing was written", file=sys.stderr)
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
