"""Figures and tables of committed records for sections of notebooks that train, so that a meeting can show results at once."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from labcore.biflow.norm_control import shares
from labcore.campaigns import claims
from labcore.campaigns.results import exploded, published
from labcore.campaigns.stills import picture
from labcore.campaigns.verdicts import judge
from labcore.campaigns.verdicts import table as verdicts
from labcore.experiments import evidence
from labcore.site import first_figures
from labcore.viz import evidence as first_figure
from labcore.viz import inverses
from labcore.viz.words import described

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 0
"""The seed whose records are drawn where a figure shows one run."""
ROWS = 4
"""Rows of a table on one slide."""
NORMS, INVERSES = "03_trajectory_norms", "04_learned_vs_analytic_inverse"
ALIGNMENT, LONGER = first_figures.ALIGNMENT, first_figures.INVERSES
"""Names of the specs whose records are drawn."""


def figures(notebook: str, section: int) -> list[str | Figure]:
    """Return what committed records show for a section of a notebook: tables in Markdown, and figures."""
    made = RECORDED.get((notebook, section))
    return made() if made else []


def as_html(figure: Figure) -> str:
    """Return a figure as HTML with an alternative text."""
    held = BytesIO()
    figure.savefig(held, format="png", dpi=110)
    return picture("png", base64.b64encode(held.getvalue()).decode(), described(figure))


def _metrics(spec: str) -> dict[str, dict[str, Any]]:
    """The numbers of each row of a campaign, of one seed; empty if it is not published."""
    campaign = published(spec)
    return {one["row"]: one["metrics"] for one in campaign.records if one["seed"] == SEED} if campaign else {}


def _sizes() -> dict[str, list[float]]:
    """The sizes of the states of the shipped flow, and of the flows without a clamp and with a clamp of 3."""
    found = _metrics(NORMS)
    return {name: sizes for row in ("no clamp", "clamp 3") if row in found for name, sizes in found[row]["rms"].items()}


def _norms() -> list[str | Figure]:
    sizes = _sizes()
    return [inverses.norms(sizes, f"size of each state; records of {NORMS}, seed {SEED}")] if sizes else []


def _norms_along() -> list[str | Figure]:
    found = _metrics(NORMS)
    points = {row: found[row]["points"][row] for row in ("no clamp", "clamp 3") if row in found}
    return (
        [inverses.norms_along({row: {p["step"]: p["rms"] for p in along} for row, along in points.items()})]
        if points
        else []
    )


def _shares() -> list[str | Figure]:
    sizes = _sizes()
    if not sizes:
        return []
    name, longest = max(sizes.items(), key=lambda one: max(one[1]) / min(one[1]))
    taught = longest[-2::-1]
    bars = {
        "nothing": shares(taught),
        "block or sample": shares(taught, "block"),
        "adaptive, p = 1": shares(taught, power=1.0),
    }
    states = [f"$x^{{{i}}}$" for i in range(len(taught) - 1, -1, -1)]
    return [inverses.shares(bars, states, f"share of each state in the squared error at the start ({name})")]


def _norm_verdicts() -> list[str | Figure]:
    campaign = published(NORMS)
    stated = claims.load_claims(NORMS).of_numbers
    return in_parts(verdicts([judge(claim, campaign.records) for claim in stated])) if campaign else []


def _ways() -> list[str | Figure]:
    rows = _metrics(INVERSES)
    wanted = [row for row in ("exact", "naive", "hidden-distillation", "hidden-alignment") if row in rows]
    found = {name: numbers for row in wanted for name, numbers in rows[row]["ways"].items()}
    if not found:
        return []
    shown = {"fid_efflite0": "FID, efflite0\n(lower is better)", "recognised": "recognised\n(higher is better)"}
    shown |= {"image_mse": "image MSE\n(lower is better)", "cycle_rms": "cycle RMS\n(lower is better)"}
    shown |= {"nats_per_dim": "nats/dim under F"}
    drawn = {name: {key: one[key] for key in shown if key in one} for name, one in found.items()}
    title = f"records of {INVERSES}, seed {SEED}:\n1,500 samples and 1,000 held-out images"
    return [inverses.ways(drawn, shown, ("cycle_rms", "image_mse"), title=title)]


def _inverse_verdicts() -> list[str | Figure]:
    campaign, compared = published(LONGER), first_figures.of_inverses()
    if campaign is None or compared is None or not compared.differences:
        return _shorter_verdicts()
    return [*_differences(compared), *_judged(claims.load_claims(LONGER), exploded(campaign.records, "ways"))]


def _shorter_verdicts() -> list[str | Figure]:
    campaign = published(INVERSES)
    stated = claims.load_claims(INVERSES).of_numbers
    if campaign is None:
        return []
    ways = exploded(campaign.records, "ways")
    of = f"Records of `{INVERSES}`; `{LONGER}` has no published records."
    return [f"{of}\n\n{part}" for part in in_parts(verdicts([judge(claim, ways) for claim in stated]))]


def _alignment_verdicts() -> list[str | Figure]:
    campaign, compared = published(ALIGNMENT), first_figures.of_alignment()
    if campaign is None or compared is None:
        return []
    return [*_differences(compared), *_judged(claims.load_claims(ALIGNMENT), campaign.records)]


def _differences(compared: first_figures.Compared) -> list[str | Figure]:
    """Draw a figure for each row of panels: on a slide, the letters of a taller figure are too small to read."""
    found, shown, than = compared
    measures = list(found)
    rows = [measures[start : start + first_figure.COLUMNS] for start in range(0, len(measures), first_figure.COLUMNS)]
    return [first_figure.differences({one: found[one] for one in row}, shown, than) for row in rows]


def _judged(stated: claims.Claims, records: Any) -> list[str | Figure]:
    return in_parts(evidence.verdicts_table(evidence.judged(stated, records)))


def in_parts(text: str) -> list[str | Figure]:
    """Divide the first table of a text in Markdown into tables of at most `ROWS` rows."""
    head, rule, *rows = [line for line in text.splitlines() if line.startswith("|")]
    return ["\n".join([head, rule, *rows[start : start + ROWS]]) for start in range(0, len(rows), ROWS)]


RECORDED: Mapping[tuple[str, int], Callable[[], list[str | Figure]]] = {
    ("01_alignment_strategies", 7): _alignment_verdicts,
    ("03_trajectory_norms", 2): _norms,
    ("03_trajectory_norms", 3): _norms_along,
    ("03_trajectory_norms", 4): _shares,
    ("03_trajectory_norms", 5): _norm_verdicts,
    ("04_learned_vs_analytic_inverse", 3): _ways,
    ("04_learned_vs_analytic_inverse", 7): _inverse_verdicts,
}
"""What records show, by notebook and section."""
OF_CAMPAIGNS = (("01_alignment_strategies", 7), ("03_trajectory_norms", 5), ("04_learned_vs_analytic_inverse", 7))
"""Sections of `RECORDED` that read committed records in the notebook too, and show them there in longer tables."""
