"""A paper's report on a run: numbers to compare results with, the way they were made, and a line that states them."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Paper(NamedTuple):
    """Reported numbers, None where there is none.

    Attributes:
        where: the table, or the paper if it is not the preset's own.
        fid, sfid, inception: FID, sFID and IS of drawn images.
        accuracy: training-free accuracy in percent.
        bits: bits/dim.
        note: further conditions, and how certain they are.
        samples: number of drawn images.
        guidance: guidance scale; 0 for none, "chosen" for one that the paper searched or does not give.
        noise_std: noise level of denoising; None if the paper does not give it.
        attn_temp: temperature of the branch without classes; None if the paper does not give it.
        denoising: denoising of a student's images: "score" of its flow, or "none"; None: by its own block, if it has one.
    """

    where: str = ""
    fid: float | None = None
    sfid: float | None = None
    inception: float | None = None
    accuracy: float | None = None
    bits: float | None = None
    note: str = ""
    samples: int | None = None
    guidance: float | Literal["chosen"] | None = None
    noise_std: float | None = None
    attn_temp: float | None = None
    denoising: Literal["score", "none"] | None = None

    def numbers(self) -> dict[str, float]:
        """Return the numbers by the names of our measures; accuracy is a share."""
        accuracy = None if self.accuracy is None else round(self.accuracy / 100, 6)
        named = dict(fid=self.fid, sfid=self.sfid, accuracy=accuracy, bits_per_dim=self.bits) | {"is": self.inception}
        return {name: value for name, value in named.items() if value is not None}

    def __str__(self) -> str:
        scores = {"FID": self.fid, "sFID": self.sfid, "IS": self.inception}
        scores_in_words = [f"{name} {score}" for name, score in scores.items() if score is not None]
        scores_in_words += [f"accuracy {self.accuracy}%"] if self.accuracy is not None else []
        scores_in_words += [f"{self.bits} bits/dim"] if self.bits is not None else []
        if not scores_in_words:
            return "unknown" + (f"; {self.note}" if self.note else "")
        return (f"{self.where}: " if self.where else "") + ", ".join([*scores_in_words, *self._drawn()])

    def _drawn(self) -> list[str]:
        """Describe how the images were drawn, as far as it is known, and add the note."""
        guided = {"chosen": "with guidance", 0: "no guidance"}
        found = [guided.get(self.guidance, f"guidance {self.guidance}")] if self.guidance is not None else []
        found += [f"attn_temp {self.attn_temp:g}"] if self.attn_temp is not None else []
        found += [f"denoised with noise_std {self.noise_std:g}"] if self.noise_std is not None else []
        by = {"score": ["denoised by the flow's score"], "none": ["no denoising"], None: []}
        found += by[self.denoising]
        return [*found, *([self.note] if self.note else [])]


UNREPORTED = Paper()


def expected(papers: tuple[Paper, ...]) -> str:
    """Return all numbers that papers report for a preset, in one line."""
    return "; ".join(map(str, papers)) or str(UNREPORTED)
