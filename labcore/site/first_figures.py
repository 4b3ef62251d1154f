"""The first figure of each campaign on flows that have learned, as a PNG in docs/figures, drawn from committed records.

A picture holds the checksum of the numbers that it shows, so that a test can tell an old picture without drawing it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from labcore.campaigns.claims import load_claims
from labcore.campaigns.results import exploded, published
from labcore.experiments import evidence, students
from labcore.files import write_atomic
from labcore.site.records import CHECKOUT

ALIGNMENT, INVERSES = "flowback_16", "biflow_16"
FIGURES = CHECKOUT / "docs" / "figures"
SOURCE = "Source"
"""The PNG standard's keyword for where a picture is from: here the checksum of its numbers."""
DPI = 110


class Compared(NamedTuple):
    """Differences that a figure shows: those of `evidence.differences`, the names of all rows, and that of the baseline."""

    differences: dict[evidence.Measure, dict[str, evidence.Difference]]
    rows: Sequence[str]
    than: str

    @property
    def checksum(self) -> str:
        """SHA-256 of all names and numbers."""
        numbers = [[list(measure), by_row] for measure, by_row in self.differences.items()]
        return hashlib.sha256(json.dumps([numbers, list(self.rows), self.than]).encode()).hexdigest()


def of_alignment() -> Compared | None:
    """Compare the rows of the campaign about alignment with its baseline; None if it has no records."""
    campaign, stated = published(ALIGNMENT), load_claims(ALIGNMENT)
    if campaign is None:
        return None
    measures = (*evidence.OF_IMAGES, *evidence.OF_FLOWS)
    found = evidence.differences(campaign.records, stated.figure, lambda row: "baseline", measures, stated.path)
    return Compared(found, stated.figure, "the baseline")


def of_inverses() -> Compared | None:
    """Compare each way from noise to images with the exact inverse of the same teacher; None if there are no records."""
    campaign, stated = published(INVERSES), load_claims(INVERSES)
    if campaign is None:
        return None
    measures = (*evidence.OF_IMAGES, *evidence.OF_WAYS)
    found = evidence.differences(exploded(campaign.records, "ways"), stated.figure, students.same_teacher, measures)
    return Compared(found, stated.figure, "the exact inverse of the same teacher")


CAMPAIGNS: dict[str, Callable[[], Compared | None]] = {ALIGNMENT: of_alignment, INVERSES: of_inverses}
"""Campaign -> what its first figure compares."""


def path(campaign: str, folder: Path = FIGURES) -> Path:
    """Return the path of a campaign's picture."""
    return folder / f"{campaign}.png"


def stale(campaign: str, folder: Path = FIGURES) -> bool:
    """Return whether a campaign's picture is missing or shows other numbers than its records. False without records."""
    from PIL import Image

    compared, file = CAMPAIGNS[campaign](), path(campaign, folder)
    if compared is None or not compared.differences:
        return False
    if not file.is_file():
        return True
    with Image.open(file) as picture:
        return picture.info.get(SOURCE) != compared.checksum


def draw(campaign: str, folder: Path = FIGURES) -> Path:
    """Draw a campaign's first figure, write it, and return its path. Raises ValueError if there is nothing to compare yet."""
    from labcore.viz import evidence as first_figure
    from labcore.viz.words import DESCRIPTION, described

    compared = CAMPAIGNS[campaign]()
    if compared is None or not compared.differences:
        raise ValueError(f"{campaign} has no records to compare yet")
    figure = first_figure.differences(*compared)
    held = BytesIO()
    figure.savefig(held, format="png", dpi=DPI, metadata={DESCRIPTION: described(figure), SOURCE: compared.checksum})
    write_atomic(path(campaign, folder), held.getvalue())
    return path(campaign, folder)


def shown(campaign: str) -> str:
    """Write the Markdown that shows a campaign's picture in docs, with a text for readers who cannot see it."""
    compared: Any = CAMPAIGNS[campaign]()
    if compared is None or not compared.differences:
        return ""
    titles = ", ".join(" ".join(measure.title.split()) for measure in compared.differences)
    words = f"Difference of each row from {compared.than} with its 95% interval, in {titles}; the table below has the numbers"
    return f"![{words}](figures/{path(campaign).name})\n"
