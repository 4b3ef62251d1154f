"""The evidence of a campaign: its stated claims judged together, and the differences that its first figure shows.

Claims are read from papermill_runs/claims (`labcore.campaigns.claims`). A claim of quality is several claims about numbers, one
for each measure of each judge that taught neither row (`labcore.experiments.quality`); it has one p-value. Holm's correction
is over all claims of the campaign that were run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from labcore.campaigns.claims import QUALITY, Claims, Stated
from labcore.campaigns.interval import paired
from labcore.campaigns.tables import by_seed
from labcore.campaigns.verdicts import (
    HEADS,
    LEVEL,
    NOTE,
    OTHER_CODE,
    Decision,
    Verdict,
    after_holm,
    at_this_scale,
    in_words,
    judge,
    plain,
)
from labcore.experiments.judges import CLASSIFIER, EMBEDDED, roles
from labcore.experiments.quality import Quality, agreed, p_value, quality_claims, taught_in
from labcore.markdown import table

Records = Sequence[dict[str, Any]]


class Judged(NamedTuple):
    """A stated claim with its verdicts: one for a number; several for a claim of quality, or none if it cannot be made.

    alone: the decision if every claim is judged alone. corrected: the decision after Holm's correction over the campaign.
    """

    stated: Stated
    verdicts: list[Verdict]
    alone: Decision | Quality
    corrected: Decision | Quality


def judged(claims: Claims, records: Records) -> list[Judged]:
    """Judge every stated claim by records as `lab run --publish` writes them.

    Raises ValueError if a claim of quality is about a row whose records do not name the networks that taught it.
    """
    verdicts = [[judge(claim, records) for claim in _parts(one, records, claims.path)] for one in claims.claims]
    alone: list[Decision | Quality] = [
        agreed([verdict.verdict for verdict in mine]) if one.measure == QUALITY else mine[0].verdict
        for one, mine in zip(claims.claims, verdicts, strict=True)
    ]
    final = after_holm(alone, [p_value(mine) for mine in verdicts])
    return [Judged(*each) for each in zip(claims.claims, verdicts, alone, final, strict=True)]


def _parts(one: Stated, records: Records, path: str) -> Sequence[Any]:
    if one.measure != QUALITY:
        return [one.as_claim]
    teachers = [*taught_in(records, one.row), *taught_in(records, one.than)]
    return quality_claims(one.row, one.than, teachers, path)


def verdicts_table(found: Sequence[Judged]) -> str:
    """Write a Markdown table: a row for each stated claim, with the differences of all its measures."""
    lines = []
    for one in found:
        n = min((v.difference.n if v.difference else 0 for v in one.verdicts), default=0)
        quality = one.stated.measure == QUALITY
        name = lambda v: f"{v.claim.number.rpartition('.')[2]} " if quality else ""  # noqa: E731, B023
        ran = any(v.difference for v in one.verdicts)
        here = "; ".join(f"{name(v)}{in_words(v.difference)}" for v in one.verdicts) if ran else "-"
        alone = _quality_alone(one) if quality else plain(one.verdicts[0])
        after = _quality(one.corrected) if quality else at_this_scale(one.corrected)
        lines.append([one.stated.claim, one.stated.paper or "-", here, n, alone, after])
    run = sum(p_value(one.verdicts) is not None for one in found)
    counts = f"Holm's correction (level {LEVEL:g}) is over the {run} claims that were run, of {len(found)} stated."
    if run < len(found):
        counts += " Its verdicts may change when the others are run."
    return "\n".join([table(HEADS, lines), counts, "", NOTE, "", QUALITY_NOTE]) + "\n"


QUALITY_NOTE = (
    "*Better*: the Frechet distance is lower and the recall is higher for every judge that taught neither row; the classifier "
    "always is one of them. The p-value of such a claim is the largest of its measures. *Contradictory*: some of these are "
    "supported and some reversed. *No claim*: the classifier taught one of the rows."
)


QUALITY_WORDS = {"better": "supported", "worse": "reversed"}
"""Decision on a claim of quality -> the word for the same decision on a claim about a number."""


def _quality_alone(one: Judged) -> str:
    """Write the verdict on a claim of quality; an undetermined one says which difference of each measure would be seen."""
    sizes = [
        f"{verdict.claim.number.rpartition('.')[2]} {verdict.smallest:.2g}"
        for verdict in one.verdicts
        if verdict.smallest is not None
    ]
    seen = f"; 80% power for {', '.join(sizes)}" if one.alone == "undetermined" and sizes else ""
    same_code = all(verdict.same_code for verdict in one.verdicts)
    return _quality(one.alone) + seen + ("" if same_code else OTHER_CODE)


def _quality(decision: str) -> str:
    return at_this_scale(QUALITY_WORDS.get(decision, decision))


def folded(title: str, markdown: str) -> str:
    """Write Markdown that is folded below its title until a reader opens it; the attribute is for MkDocs, others ignore it."""
    return f'\n<details markdown="1"><summary>{title}</summary>\n\n{markdown}\n</details>\n'


def cost(claims: Claims) -> str:
    """Write the planned cost of each row, and the rows that are not run, with the reason."""
    parts = [] if claims.budget is None else [claims.budget.markdown()]
    return "\n".join([*parts, *(f"- **not run**: {name}: {why}" for name, why in claims.not_run.items()), ""])


class Measure(NamedTuple):
    """A measure of the first figure.

    better: "lower", "higher", or None for one that has no better side. judge: the judge whose network may have taught; None
    for a measure without one.
    """

    name: str
    title: str
    better: str | None
    judge: str | None = None


OF_IMAGES = (
    Measure("fid_classifier", "FID,\nclassifier", "lower", CLASSIFIER),
    Measure("recall_classifier", "recall,\nclassifier", "higher", CLASSIFIER),
    Measure("fid_efflite0", "FID,\nefflite0", "lower", EMBEDDED),
    Measure("recall_efflite0", "recall,\nefflite0", "higher", EMBEDDED),
    Measure("power_pixels", "log power of\nfine detail", None),
    Measure("variance_pixels", "variance within\na class", None),
)
"""The measures of drawn images, by judge."""


OF_FLOWS = (
    Measure("training_free", "training-free\naccuracy", "higher"),
    Measure("nats_per_dim", "test\nnats/dim", "lower"),
)
"""Further measures of a flow, shown with those of its images."""
OF_WAYS = (
    Measure("recognised", "recognised", "higher"),
    Measure("image_mse", "image MSE\n(inversion)", "lower"),
)
"""Further measures of a way from noise to images, shown with those of its images."""


class Difference(NamedTuple):
    """A paired difference with half of its 95% interval; taught: whether the judge's network taught the row or its baseline."""

    mean: float
    half: float | None
    n: int
    taught: bool


def differences(
    records: Records,
    rows: Sequence[str],
    baseline: Callable[[str], str],
    measures: Sequence[Measure],
    path: str = "{}",
) -> dict[Measure, dict[str, Difference]]:
    """Return {measure: {row: paired difference from baseline(row)}}, without rows that share no seed with their baseline.

    path: where a measure is in a record, as "last.{}". A row that is its own baseline is left out.
    """
    found: dict[Measure, dict[str, Difference]] = {}
    for measure in measures:
        found[measure] = {}
        for row in rows:
            than, number = baseline(row), path.format(measure.name)
            difference = None if row == than else paired(by_seed(records, row, number), by_seed(records, than, number))
            if difference is not None:
                teachers = [*taught_in(records, row), *taught_in(records, than)]
                taught = measure.judge is not None and roles([measure.judge], teachers)[measure.judge] != "independent"
                found[measure][row] = Difference(difference.mean, difference.half, difference.n, taught)
    return {measure: by_row for measure, by_row in found.items() if by_row}
