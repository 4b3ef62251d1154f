"""Verdicts on claims, computed from a campaign's records: supported, reversed, or undetermined, always at the campaign's scale.

A claim says that one row of a table is better than another in one number. The two rows are paired by seed, and the 95%
confidence interval of the mean difference decides. If it lies on the claimed side of 0, the claim is supported; if it lies on
the other side, the claim is reversed. If it contains 0, the claim is undetermined, and the verdict gives the smallest
difference that this number of seeds would detect with a probability of 80%. No verdict reaches beyond the scale of its runs.

If each claim is judged alone, about one in twenty true differences of zero looks decided. `corrected` judges all claims of
a table together by Holm's method: the probability that any true difference of zero looks decided stays below 5%.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from labcore import markdown
from labcore.campaigns.interval import Interval, decimal, holm, paired
from labcore.campaigns.tables import by_seed

LEVEL = 0.05
"""Largest corrected p-value that decides a claim."""
Decision = Literal["supported", "reversed", "undetermined", "not run"]
D = TypeVar("D", bound=str)


class Claim(NamedTuple):
    """The claim that `row` is higher or lower than `than` in the number at the dotted path `number`.

    says: the claim in words. paper: the numbers of the paper.
    """

    says: str
    row: str
    than: str
    number: str
    direction: Literal["higher", "lower"]
    paper: str = ""


class Verdict(NamedTuple):
    """The verdict on a claim, and the paired difference row - than; None without common seeds.

    same_code: whether all records of both rows are of the same notebook code; default True.
    """

    claim: Claim
    verdict: Decision
    difference: Interval | None
    same_code: bool = True

    @property
    def smallest(self) -> float | None:
        """The true difference that is detected with a probability of 80%, if seeds scatter as here; None below two seeds."""
        return None if self.difference is None else self.difference.detectable(0.8)


def judge(claim: Claim, records: Sequence[dict[str, Any]]) -> Verdict:
    """Judge one claim alone, from records as `lab run --publish` writes them."""
    row, than = (by_seed(records, name, claim.number) for name in (claim.row, claim.than))
    difference = paired(row, than)
    if difference is None:
        return Verdict(claim, "not run", None)
    same_code = len({record.get("code") for record in records if record["row"] in (claim.row, claim.than)}) == 1
    if not difference.excludes_zero:
        return Verdict(claim, "undetermined", difference, same_code)
    as_claimed = (difference.mean > 0) == (claim.direction == "higher")
    return Verdict(claim, "supported" if as_claimed else "reversed", difference, same_code)


def corrected(verdicts: Sequence[Verdict]) -> list[Decision]:
    """Decide on each claim after Holm's correction over all claims that were run with two seeds or more."""
    p_values = [one.difference.p_value if one.difference else None for one in verdicts]
    return after_holm([one.verdict for one in verdicts], p_values)


def after_holm(decisions: Sequence[D], p_values: Sequence[float | None]) -> list[D | Literal["undetermined"]]:
    """Keep each decision whose p-value is at most 0.05 after Holm's correction; the others become undetermined.

    A decision without a p-value is kept, and does not count in the correction: "not run", or a single seed.
    """
    known = {i: p for i, p in enumerate(p_values) if p is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    return ["undetermined" if adjusted.get(i, 0.0) > LEVEL else decision for i, decision in enumerate(decisions)]


def at_this_scale(decision: str) -> str:
    """Write a decision as tables show it: no verdict reaches beyond the scale of its runs."""
    return f"{decision} at this scale" if decision in ("supported", "reversed") else decision


def in_words(difference: Interval | None) -> str:
    """Write a paired difference with half its 95% interval, and its standardised size; "-" if there is none."""
    if difference is None:
        return "-"
    text, size = difference.text(signed=True), difference.standardised
    if size is None:
        return text
    value, low, high = (decimal(number, 1) for number in size)
    return f"{text}; d = {value} ({low} to {high})"


def plain(verdict: Verdict) -> str:
    """Write the verdict on a claim that is judged alone; an undetermined one says which difference would be seen."""
    if verdict.verdict != "undetermined":
        text = at_this_scale(verdict.verdict)
    elif verdict.smallest is None:
        text = "undetermined: one seed has no interval"
    else:
        text = f"undetermined; 80% power for {verdict.smallest:.2g}"
    return text if verdict.same_code else text + OTHER_CODE


OTHER_CODE = "; the rows were run with different notebook code"
HEADS = (
    "claim",
    "in the paper",
    "here: difference (95%); size d (95%)",
    "n",
    "judged alone",
    "after Holm's correction",
)
NOTE = (
    "Difference: mean over seeds, paired by seed, with half of its 95% interval (Student's t). Size d: this mean divided by "
    "the standard deviation of the paired differences (Cohen's d_z), with its exact 95% interval (noncentral t). 80% power for "
    "X: a true difference of X would be decided with a probability of 80%, judged alone, if seeds vary as here."
)


def table(verdicts: Sequence[Verdict]) -> str:
    """Write a Markdown table: each claim judged alone, and after Holm's correction over the claims of this table."""
    lines = []
    final = corrected(verdicts)
    for one, decision in zip(verdicts, final, strict=True):
        claim, n = one.claim, one.difference.n if one.difference else 0
        here = in_words(one.difference)
        lines.append([claim.says, claim.paper or "-", here, n, plain(one), at_this_scale(decision)])
    alone, left = (
        sum(each in ("supported", "reversed") for each in decisions)
        for decisions in ([one.verdict for one in verdicts], final)
    )
    counts = f"Decided claims: {alone} judged alone, {left} after Holm's correction."
    return "\n".join([markdown.table(HEADS, lines), counts, "", NOTE]) + "\n"
