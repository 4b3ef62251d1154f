"""The claims of a campaign, written down before its runs: papermill_runs/claims/SPEC.yaml, for the spec of the same name.

    about: what the runs are and at which scale
    source: FlowBack (arXiv 2511.22345)
    path: last.{}                              # where `quality` finds a measure in a record; default "{}"
    figure: [reverse]                          # rows of the first figure, in order
    claims:
      - {claim: in words, row: reverse, than: baseline, measure: last.training_free, direction: higher, paper: 55.21 / 37.43}
      - {claim: in words, row: reverse, than: baseline, measure: quality, paper: FID 11.93 / 12.91}
    paper_table: {head: [row, FID], rows: [[baseline, 12.91]], note: in words}
    budget: {hours: 35, rows: [{row: baseline, steps: 2400, minutes: 9, seeds: 5}]}
    not_run: {a row by name: why it is not run}

`measure` is a dotted path into a record, or `quality`: the judges that taught neither row agree
(`labcore.experiments.quality`), which has no direction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from labcore.campaigns.project import project_folders
from labcore.campaigns.verdicts import Claim
from labcore.markdown import table
from labcore.strict import Config
from labcore.yamlfile import read_yaml

FOLDER = "claims"
QUALITY = "quality"
_STRICT = ConfigDict(strict=True)


class Stated(Config):
    """One claim as written: `row` is higher or lower than `than` in a measure, or has better images (`quality`)."""

    model_config = _STRICT
    claim: str
    row: str
    than: str
    measure: str
    direction: Literal["higher", "lower"] | None = None
    paper: str = ""

    @model_validator(mode="after")
    def _direction_of_a_number(self) -> Stated:
        if (self.measure == QUALITY) != (self.direction is None):
            raise ValueError(
                f"claim {self.claim!r} has direction {self.direction!r} and measure {self.measure!r}; "
                f"{QUALITY!r} takes no direction, and every other measure takes higher or lower"
            )
        return self

    @property
    def as_claim(self) -> Claim:
        """Return the claim for `labcore.campaigns.verdicts.judge`; ValueError for a claim of quality, which is several."""
        if self.direction is None:
            raise ValueError(f"claim {self.claim!r} is one of quality; judge it with labcore.experiments.quality")
        return Claim(self.claim, self.row, self.than, self.measure, self.direction, self.paper)


class PaperTable(Config):
    """Numbers of the paper, as it prints them."""

    model_config = _STRICT
    head: list[str]
    rows: list[list[str | float]]
    note: str = ""

    def markdown(self) -> str:
        """Return the table as Markdown, with the note below it."""
        return table(self.head, self.rows) + (f"\n{self.note}\n" if self.note else "")


class Cost(Config):
    """A row's planned cost: optimizer steps of one run, minutes of one thread for one run with its measures, seeds."""

    model_config = _STRICT
    row: str
    steps: NonNegativeInt
    minutes: PositiveFloat
    seeds: PositiveInt
    spec: str | None = None  # None: the spec of the same name as the file


class Budget(Config):
    """The planned cost of a campaign's rows, in order of worth. hours: the most that all of them may take."""

    model_config = _STRICT
    hours: PositiveFloat
    rows: list[Cost]

    @property
    def planned(self) -> float:
        """Hours of one thread."""
        return sum(row.minutes * row.seeds for row in self.rows) / 60

    @model_validator(mode="after")
    def _within(self) -> Budget:
        if self.planned > self.hours:
            raise ValueError(
                f"the rows take {self.planned:.1f} hours, and the budget is {self.hours:g}; leave the last ones out"
            )
        return self

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = []
        for row in self.rows:
            name = row.row if row.spec is None else f"{row.row} ({row.spec})"
            hours = row.minutes * row.seeds / 60
            lines.append([name, f"{row.steps:,}", f"{row.minutes:g}", row.seeds, f"{hours:.1f}"])
        heads = ["row", "steps", "minutes a run", "seeds", "hours"]
        return f"{table(heads, lines)}\nPlanned: {self.planned:.1f} hours of one thread.\n"


class Claims(Config):
    """A claims file; see the module."""

    model_config = _STRICT
    about: str
    source: str
    claims: list[Stated] = Field(min_length=1)
    path: str = "{}"
    figure: list[str] = Field(default=[])
    paper_table: PaperTable | None = None
    budget: Budget | None = None
    not_run: dict[str, str] = Field(default={})

    @model_validator(mode="after")
    def _each_once(self) -> Claims:
        stated = [(one.row, one.than, one.measure) for one in self.claims]
        if twice := [each for each in stated if stated.count(each) > 1]:
            raise ValueError(f"row, than and measure {twice[0]} are in two claims; state each once")
        return self

    @property
    def of_numbers(self) -> list[Claim]:
        """Return the claims about single numbers, without those of quality."""
        return [one.as_claim for one in self.claims if one.measure != QUALITY]


def load_claims(name: str, folder: Path | None = None) -> Claims:
    """Read the claims of a spec by its name, searched for as specs are; or from `folder`.

    Raises ValueError for a missing file, and pydantic's for contents that do not fit.
    """
    places = [folder] if folder is not None else [place / FOLDER for place in project_folders()]
    for place in places:
        if (path := place / f"{name}.yaml").is_file():
            return _read(path)
    raise ValueError(f"no claims file {name}.yaml in {' or '.join(map(str, places))}; write the claims before the runs")


def _read(path: Path) -> Claims:
    values: Any = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}; a claims file has {', '.join(Claims.model_fields)}")
    return Claims(**values)
