"""Decision on whether images of one row of a campaign are better than those of another: independent judges must agree.

Each judge has two claims: its Frechet distance is lower, and its recall is higher. The classifier always is a judge; efflite0
is one if it took part in training neither row. If the classifier took part in training a row, or may have, no claim of quality
is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from labcore.campaigns.verdicts import Claim, Decision, Verdict
from labcore.experiments.judges import CLASSIFIER, EMBEDDED, roles

Quality = Literal["better", "worse", "contradictory", "undetermined", "not run", "no claim"]


def quality_claims(row: str, than: str, teachers: Iterable[str], path: str = "last.{}") -> tuple[Claim, ...]:
    """Return the claims that must all be supported for the images of `row` to be better than those of `than`.

    teachers: networks that took part in training either row (`labcore.experiments.judges.taught`). path: place of a measure in
    a record. Returns () if the classifier is a teacher, or if a teacher is unknown.
    """
    role = roles((CLASSIFIER, EMBEDDED), teachers)
    if role[CLASSIFIER] != "independent":
        return ()
    judges = [name for name in (CLASSIFIER, EMBEDDED) if role[name] == "independent"]
    return tuple(
        Claim(f"{row} has a {way} {name} than {than} ({of})", row, than, path.format(f"{metric}_{of}"), way)
        for of in judges
        for name, metric, way in (("Frechet distance", "fid", "lower"), ("recall", "recall", "higher"))
    )


def agreed(decisions: Sequence[Decision]) -> Quality:
    """Combine the decisions on the claims of `quality_claims`, each judged alone or after Holm's correction.

    Returns "better" if all are supported, "worse" if all are reversed, "contradictory" if some are supported and some
    reversed, "not run" if one is missing, "no claim" without claims, and otherwise "undetermined".
    """
    if not decisions:
        return "no claim"
    if "not run" in decisions:
        return "not run"
    found = set(decisions)
    if found == {"supported"}:
        return "better"
    if found == {"reversed"}:
        return "worse"
    return "contradictory" if {"supported", "reversed"} <= found else "undetermined"


def p_value(verdicts: Sequence[Verdict]) -> float | None:
    """Return the p-value of a claim of quality: the largest of its measures, all of which must be decided.

    This is the intersection-union test (Berger 1982), which needs no correction for the number of measures. "Contradictory"
    needs one measure on each side; its p-value is the larger of the two smallest. None if a measure has no p-value.
    """
    p_values = [one.difference.p_value if one.difference else None for one in verdicts]
    if not p_values or None in p_values:
        return None
    decisions = [one.verdict for one in verdicts]
    if agreed(decisions) != "contradictory":
        return max(p_values)
    on_side = lambda side: min(p for p, found in zip(p_values, decisions, strict=True) if found == side)  # noqa: E731
    return max(on_side("supported"), on_side("reversed"))


def taught_in(records: Sequence[dict[str, Any]], row: str) -> tuple[str, ...]:
    """Return the networks that took part in training a row: the union of `metrics.taught` over its records.

    `metrics.taught` is a list of names or {arm: list of names}. Raises ValueError for a record without it.
    """
    found: list[str] = []
    for record in records:
        if record["row"] != row:
            continue
        if "taught" not in record["metrics"]:
            raise ValueError(f"a record of row {row!r} lacks metrics.taught, the networks that taught it; run it again")
        names = record["metrics"]["taught"]
        lists = names.values() if isinstance(names, dict) else [names]
        found += [name for each in lists for name in each]
    return tuple(dict.fromkeys(found))
