"""Whether images of one row of a campaign are better than those of another: independent judges have to agree.

A judge's word is two claims: its Frechet distance is lower, its recall is higher. The classifier has to give it; where efflite0
taught neither row, efflite0 too. A row that the classifier taught, or may have taught, supports no claim of quality.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from labcore.campaigns.verdicts import Claim, Decision
from labcore.experiments.judges import CLASSIFIER, EMBEDDED, roles

Quality = Literal["better", "worse", "contradictory", "undetermined", "not run", "no claim"]


def quality_claims(row: str, than: str, teachers: Iterable[str], path: str = "last.{}") -> tuple[Claim, ...]:
    """The claims that all have to be supported for the images of `row` to be better than those of `than`.

    teachers: what taught either row (`labcore.experiments.judges.taught`). path: where a measure is in a record. No claims
    where the classifier is among the teachers, or one of these is unknown.
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
    """What follows from the decisions on the claims of `quality_claims`, each judged alone or after Holm's correction.

    "better" where all are supported, "worse" where all are reversed, "contradictory" where some are supported and some
    reversed, "not run" where one is missing, "no claim" without claims, else "undetermined".
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


def taught_in(records: Sequence[dict[str, Any]], row: str) -> tuple[str, ...]:
    """What taught a row: the union over its records of `metrics.taught`, a list of names or {arm: list of names}.

    Raises ValueError for a record without that field.
    """
    found: list[str] = []
    for record in records:
        if record["row"] != row:
            continue
        if "taught" not in record["metrics"]:
            raise ValueError(f"a record of row {row!r} does not say what taught it (metrics.taught); run it again")
        names = record["metrics"]["taught"]
        lists = names.values() if isinstance(names, dict) else [names]
        found += [name for each in lists for name in each]
    return tuple(dict.fromkeys(found))
