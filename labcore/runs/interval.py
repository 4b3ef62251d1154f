"""Mean and 95% interval over seeds, plain and paired: Student's t with n - 1 degrees of freedom.

With three seeds the factor is 4.30, not the 1.96 of a normal distribution, which would make intervals less than half as long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean with half the width of its 95% interval; `half` is None where there is one value only."""

    mean: float
    half: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.half is not None and abs(self.mean) > self.half


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of at least one value, with its t interval."""
    n = len(values)
    if not n:
        raise ValueError("there are no values to average")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Interval(mean, t_quantile((1 + confidence) / 2, n - 1) * math.sqrt(variance / n), n)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    """Mean difference values - baseline over the seeds that both have, with its t interval; None where they share none."""
    common = sorted(values.keys() & baseline.keys())
    return mean_interval([values[seed] - baseline[seed] for seed in common]) if common else None


def t_quantile(p: float, freedom: int) -> float:
    """The value that Student's t with `freedom` degrees of freedom stays below with probability p, 0 < p < 1."""
    from scipy.special import stdtrit

    if not 0 < p < 1 or freedom < 1:
        raise ValueError(f"p was {p} and freedom {freedom}; p lies between 0 and 1, freedom is at least 1")
    return float(stdtrit(freedom, p))
