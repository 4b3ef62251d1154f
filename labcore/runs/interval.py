"""Mean and 95% interval over seeds, plain and paired: Student's t with n - 1 degrees of freedom.

With three seeds the factor is 4.30, not the 1.96 of a normal distribution, which would make intervals less than half as long.
The quantile is found by bisection on the regularised incomplete beta function, whose continued fraction is evaluated by
Lentz's method (Press et al., Numerical Recipes, section 6.4).
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
    if not 0 < p < 1 or freedom < 1:
        raise ValueError(f"p was {p} and freedom {freedom}; p lies between 0 and 1, freedom is at least 1")
    if p < 0.5:
        return -t_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_probability(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def t_probability(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0."""
    return 1 - 0.5 * _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x in (0.0, 1.0):
        return x
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of I_x(a, b)."""
    tiny = 1e-300
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1), tiny)
    h = d
    for m in range(1, 1000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away(1 + term * d, tiny)
            c = _away(1 + term / c, tiny)
            h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return h


def _away(value: float, tiny: float) -> float:
    """A value that can be divided by."""
    return value if abs(value) > tiny else tiny
