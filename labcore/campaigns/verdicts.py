"""What a campaign's records say about a claim: supported, not supported, or undetermined, computed and not judged.

A claim is that one row of a table is better than another in one number. Both are paired by seed; the 95% interval of the
mean difference decides: above 0 on the claimed side, supported; on the other side, not supported; around 0, undetermined, with
the smallest difference that as many seeds would have told from nothing four times in five. Where claims are judged one by
one, one of twenty true differences of zero is expected to look decided. `corrected` judges all claims of a table together by
Holm's method: the probability that any true difference of zero looks decided stays below 5%.
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
    """`row` is higher or lower than `than` in the number at the dotted path `number`; `paper` says it in its own numbers."""

    says: str
    row: str
    than: str
    number: str
    direction: Literal["higher", "lower"]
    paper: str = ""


class Verdict(NamedTuple):
    """The verdict, and the paired difference row - than; None without common seeds."""

    claim: Claim
    verdict: Decision
    difference: Interval | None

    @property
    def smallest(self) -> float | None:
        """The true difference that would have been seen with a probability of 80%, if seeds scatter as here; None below two."""
        return None if self.difference is None else self.difference.detectable(0.8)


def judge(claim: Claim, records: Sequence[dict[str, Any]]) -> Verdict:
    """The verdict on `claim` alone, by records as `lab run --publish` writes them."""
    row, than = (by_seed(records, name, claim.number) for name in (claim.row, claim.than))
    difference = paired(row, than)
    if difference is None:
        return Verdict(claim, "not run", None)
    if not difference.excludes_zero:
        return Verdict(claim, "undetermined", difference)
    as_claimed = (difference.mean > 0) == (claim.direction == "higher")
    return Verdict(claim, "supported" if as_claimed else "not supported", difference)


def corrected(verdicts: Sequence[Verdict]) -> list[Decision]:
    """The decision on each claim after Holm's correction over all of them that were run with two seeds or more.

    A claim stays decided where its corrected p-value is at most 0.05; otherwise it becomes undetermined.
    """
    p_values = {i: p for i, one in enumerate(verdicts) if one.difference and (p := one.difference.p_value) is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [
        "undetermined" if adjusted.get(i, 0.0) > LEVEL else one.verdict  # "not run" has no p-value
        for i, one in enumerate(verdicts)
    ]


def table(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table: each claim judged alone, and after Holm's correction over the claims of this table."""
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
