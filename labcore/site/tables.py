"""The generated parts of README and docs: `python -m labcore.site.tables` makes them again from committed records.

A page marks such a part by two comments, and everything between them is replaced:

    <!-- generated: speed-inverse -->
    ...
    <!-- end: speed-inverse -->

The first figures of campaigns, in docs/figures, are drawn again if their records have changed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from labcore.files import write_atomic
from labcore.site import findings, first_figures, planned, settings, shipped, speed, teaching
from labcore.site.records import CHECKOUT

RECORDED: dict[str, Callable[[], str]] = {
    **findings.BLOCKS,
    **settings.BLOCKS,
    **shipped.BLOCKS,
    **speed.BLOCKS,
    **teaching.BLOCKS,
}
"""Made from committed records and notebooks, in seconds."""
COUNTED: dict[str, Callable[[], str]] = planned.BLOCKS
"""Counted from the code of the presets, in minutes."""
BLOCKS = RECORDED | COUNTED
PART = re.compile(r"(?s)(<!-- generated: ([\w-]+) -->\n).*?(<!-- end: \2 -->)")


def pages(checkout: Path = CHECKOUT) -> list[Path]:
    """List the Markdown pages that may have generated parts: README, docs and docs/teaching."""
    docs = checkout / "docs"
    return [checkout / "README.md", *sorted(docs.glob("*.md")), *sorted((docs / "teaching").glob("*.md"))]


@cache
def made(name: str) -> str:
    """Make a generated part by its name. Raises ValueError for an unknown one, and if its record is missing or damaged."""
    if name not in BLOCKS:
        raise ValueError(f"no generated part is named {name!r}; there are {', '.join(sorted(BLOCKS))}")
    return f"\n{BLOCKS[name]().strip()}\n\n"


def parts(text: str) -> list[str]:
    """List the names of the generated parts of a page, in its order."""
    return [found[2] for found in PART.finditer(text)]


def filled(text: str, names: set[str] | None = None) -> str:
    """Return a page after making its generated parts again; with `names`, only those."""

    def part(found: re.Match[str]) -> str:
        if names is not None and found[2] not in names:
            return found[0]
        return f"{found[1]}{made(found[2])}{found[3]}"

    return PART.sub(part, text)


def stale(page: Path, names: set[str] | None = None) -> bool:
    """Return whether the generated parts of a page are out of date with the records."""
    text = page.read_text(encoding="utf-8")
    return filled(text, names) != text


def main(arguments: list[str] | None = None) -> int:
    """Make all generated parts and pictures again, and print the files that changed. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m labcore.site.tables", description=__doc__.split("\n")[0])
    parser.parse_args(arguments)
    for campaign in filter(first_figures.stale, first_figures.CAMPAIGNS):
        print(first_figures.draw(campaign).relative_to(CHECKOUT))
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            write_atomic(page, new)
            print(page.relative_to(CHECKOUT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
