"""Verdicts on claims, computed from a campaign's records: supported, not supported, or undetermined.

A claim says that one row of a table is better than another in one number. The two rows are paired by seed, and the 95%
confidence interval of the mean difference decides. If it lies on the claimed side of 0, the claim is supported; on the
other side, it is not supported. If it contains 0, the claim is undetermined, and the verdict gives the smallest difference
that this number of seeds would detect with a probability of 80%.

If each claim is judged alone, about one in twenty true differences of zero looks decided. `corrected` judges all claims of
a table together by Holm's method: the probability that any true difference of zero looks decided stays below 5%.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from labcore.campaigns.interval import Interval, holm, paired
from labcore.campaigns.tables import by_seed

LEVEL = 0.05
"""Largest corrected p-value that decides a claim."""
Decision = Literal["supported", "not supported", "undetermined", "not run"]


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
    """The verdict on a claim, and the paired difference row - than; None without common seeds."""

    claim: Claim
    verdict: Decision
    difference: Interval | None

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
    if not difference.excludes_zero:
        return Verdict(claim, "undetermined", difference)
    as_claimed = (difference.mean > 0) == (claim.direction == "higher")
    return Verdict(claim, "supported" if as_claimed else "not supported", difference)


def corrected(verdicts: Sequence[Verdict]) -> list[Decision]:
    """Decide on each claim after Holm's correction over all claims that were run with two seeds or more.

    A claim stays decided where its corrected p-value is at most 0.05; otherwise it becomes undetermined.
    """
    p_values = {i: p for i, one in enumerate(verdicts) if one.difference and (p := one.difference.p_value) is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [
        "undetermined" if adjusted.get(i, 0.0) > LEVEL else one.verdict  # "not run" has no p-value
        for i, one in enumerate(verdicts)
    ]


def table(verdicts: Sequence[Verdict]) -> str:
    """Write a Markdown table: each claim judged alone, and after Holm's correction over the claims of this table."""
    heads = ("claim", "in the paper", "here: difference (95%)", "n", "judged alone", "after Holm's correction")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    final = corrected(verdicts)
    for one, decision in zip(verdicts, final, strict=True):
        claim, verdict, difference = one
        here, n = "-", 0
        if difference is not None:
            n = difference.n
            here = f"{difference.mean:+.4g}" + (f" ± {difference.half:.2g}" if difference.half is not None else "")
        if verdict == "undetermined":
            unseen = f"below {one.smallest:.2g}" if one.smallest is not None else "of any size"
            verdict = f"undetermined: differences {unseen} would mostly not be seen"
        lines.append(f"| {claim.says} | {claim.paper or '-'} | {here} | {n} | {verdict} | {decision} |")
    alone, left = (
        sum(each in ("supported", "not supported") for each in decisions)
        for decisions in ([one.verdict for one in verdicts], final)
    )
    return "\n".join([*lines, "", f"Decided claims: {alone} judged alone, {left} after Holm's correction."]) + "\n"
