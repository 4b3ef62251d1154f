"""What a paper reports of a run: numbers that results are put beside, and the line that says them."""

from __future__ import annotations

from typing import NamedTuple


class Paper(NamedTuple):
    """Reported numbers, None where there is none; an empty one where the paper has no such run.

    where: the table. fid, sfid, inception (IS): of drawn images. accuracy: training-free, in percent. bits: bits/dim. note:
    under which conditions. samples: drawn images, None where the paper does not say.
    """

    where: str = ""
    fid: float | None = None
    sfid: float | None = None
    inception: float | None = None
    accuracy: float | None = None
    bits: float | None = None
    note: str = ""
    samples: int | None = None

    def numbers(self) -> dict[str, float]:
        """The numbers by the names that measures have, accuracy as a share."""
        accuracy = None if self.accuracy is None else round(self.accuracy / 100, 6)
        named = dict(fid=self.fid, sfid=self.sfid, accuracy=accuracy, bits_per_dim=self.bits) | {"is": self.inception}
        return {name: value for name, value in named.items() if value is not None}

    def __str__(self) -> str:
        scores = {"FID": self.fid, "sFID": self.sfid, "IS": self.inception}
        said = [f"{name} {score}" for name, score in scores.items() if score is not None]
        said += [f"accuracy {self.accuracy}%"] if self.accuracy is not None else []
        said += [f"{self.bits} bits/dim"] if self.bits is not None else []
        if not said:
            return "unknown" + (f"; {self.note}" if self.note else "")
        return (f"{self.where}: " if self.where else "") + ", ".join([*said, *([self.note] if self.note else [])])


UNREPORTED = Paper()
