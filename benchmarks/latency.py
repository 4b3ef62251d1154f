"""Response times of pages: the numbers of a record, next to their targets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Allowed(NamedTuple):
    """Targets: seconds to the first picture, and milliseconds of an answer, median and 95th percentile."""

    first_s: float
    median_ms: float
    slowest_ms: float


def summary(first: float, answers: Sequence[float], allowed: Allowed) -> dict[str, float]:
    """Return the record. first: seconds to the first picture. answers: milliseconds from each change to its pixels."""
    return {
        "first picture s": round(first, 2),
        "first picture allowed s": allowed.first_s,
        "answers": len(answers),
        "median ms": round(statistics.median(answers), 1),
        "median allowed ms": allowed.median_ms,
        "95th percentile ms": round(statistics.quantiles(answers, n=20)[-1], 1),
        "95th percentile allowed ms": allowed.slowest_ms,
    }
