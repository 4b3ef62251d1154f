"""What a campaign's records say about a claim: supported, not supported, or undetermined, computed and not judged.

A claim is that one row of a table is better than another in one number. Both are paired by seed; the 95% interval of the
mean difference decides: above 0 on the claimed side, supported; on the other side, not supported; around 0, undetermined, with
the smallest difference that as many seeds would have told from nothing four times in five. Claims are judged one by one, so
of twenty that are false, one is expected to look supported or its opposite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from labcore.runs.interval import Interval, paired, t_quantile
from labcore.runs.results import metric


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
    verdict: Literal["supported", "not supported", "undetermined", "not run"]
    difference: Interval | None

    @property
    def smallest(self) -> float | None:
        """The true difference that would have been seen with a probability of 80%, if seeds scatter as here; None below two.

        The half width times 1 + t(0.8) / t(0.975): a difference of the half width itself is seen only every other time.
        """
        if self.difference is None or self.difference.half is None:
            return None
        freedom = self.difference.n - 1
        return self.difference.half * (1 + t_quantile(0.8, freedom) / t_quantile(0.975, freedom))


def judge(claim: Claim, records: Sequence[dict[str, Any]]) -> Verdict:
    """The verdict on `claim` by records as `lab run --publish` writes them."""
    row, than = (
        {r["seed"]: v for r in records if r["row"] == name and (v := metric(r["metrics"], claim.number)) is not None}
        for name in (claim.row, claim.than)
    )
    difference = paired(row, than)
    if difference is None:
        return Verdict(claim, "not run", None)
    if not difference.excludes_zero:
        return Verdict(claim, "undetermined", difference)
    as_claimed = (difference.mean > 0) == (claim.direction == "higher")
    return Verdict(claim, "supported" if as_claimed else "not supported", difference)


def table(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table."""
    lines = ["| claim | in the paper | here: difference (95%) | n | verdict |", "|---|---|---|---|---|"]
    for one in verdicts:
        claim, verdict, difference = one
        here, n = "-", 0
        if difference is not None:
            n = difference.n
            here = f"{difference.mean:+.4g}" + (f" ± {difference.half:.2g}" if difference.half is not None else "")
        if verdict == "undetermined":
            unseen = f"below {one.smallest:.2g}" if one.smallest is not None else "of any size"
            verdict = f"undetermined: differences {unseen} would mostly not be seen"
        lines.append(f"| {claim.says} | {claim.paper or '-'} | {here} | {n} | {verdict} |")
    return "\n".join(lines) + "\n"
