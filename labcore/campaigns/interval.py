"""Mean and 95% confidence interval over seeds, plain and paired: Student's t with n - 1 degrees of freedom.

With three seeds the factor is 4.30, not the 1.96 of a normal distribution, which would make intervals less than half as long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ROUNDING = 1e-9
"""Half widths below this share of the mean are rounding errors of equal numbers."""


class Size(NamedTuple):
    """A standardised effect size with its 95% confidence interval."""

    value: float
    low: float
    high: float


class Interval(NamedTuple):
    """A mean with half the width of its 95% confidence interval; `half` is None for a single value."""

    mean: float
    half: float | None
    n: int

    def text(self, signed: bool = False) -> str:
        """Write "0.8421 ± 0.0032": to two digits of the half width, or to four digits of the mean if there is none.

        signed: whether a mean above 0 begins with "+".
        """
        sign = "+" if signed else ""
        if self.half is None or self.half <= ROUNDING * abs(self.mean):
            return f"{self.mean:{sign}.4g}" + ("" if self.half is None else " ± 0")
        digits = max(0, min(10, 1 - _exponent(self.half)))
        return f"{decimal(self.mean, digits, sign)} ± {self.half:.{digits}f}"

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.half is not None and abs(self.mean) > self.half

    @property
    def p_value(self) -> float | None:
        """Two-sided p-value of the t test that the true mean is 0; None for a single value."""
        from scipy.special import stdtr

        if self.half is None:
            return None
        if self.half == 0:
            return 1.0 if self.mean == 0 else 0.0
        t = self.mean / self.half * t_quantile(0.975, self.n - 1)
        return 2 * float(stdtr(self.n - 1, -abs(t)))

    @property
    def standardised(self) -> Size | None:
        """The mean divided by the standard deviation of the values (Cohen's d_z, if the values are paired differences).

        Its interval is exact for normal values, by the noncentral t distribution (Steiger and Fouladi 1997). None for a
        single value, and if all values are equal.
        """
        from scipy.special import nctdtrinc

        if not self.half:
            return None
        t, freedom = self.mean / self.half * t_quantile(0.975, self.n - 1), self.n - 1
        low, high = (float(nctdtrinc(freedom, p, abs(t))) for p in (0.975, 0.025))
        if t < 0:
            low, high = -high, -low
        root = math.sqrt(self.n)
        return Size(t / root, low / root, high / root)

    def detectable(self, power: float = 0.8) -> float | None:
        """The true mean whose 95% interval excludes 0 on its side with this probability, if values scatter as these do.

        By the noncentral t distribution; None for a single value.
        """
        from scipy.special import nctdtrinc

        if self.half is None:
            return None
        quantile = t_quantile(0.975, self.n - 1)
        return self.half / quantile * float(nctdtrinc(self.n - 1, 1 - power, quantile))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of at least one value with its t interval. Raises ValueError if there are no values."""
    n = len(values)
    if not n:
        raise ValueError("there are no values to average")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Interval(mean, t_quantile((1 + confidence) / 2, n - 1) * math.sqrt(variance / n), n)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    """Return the mean difference values - baseline over common seeds, with its t interval; None without common seeds."""
    common = sorted(values.keys() & baseline.keys())
    return mean_interval([values[seed] - baseline[seed] for seed in common]) if common else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's method (1979); they keep their order.

    Rejecting what is at most 0.05 keeps the probability of one false rejection or more below 5%.
    """
    m, largest = len(p_values), 0.0
    adjusted = [0.0] * m
    for rank, i in enumerate(sorted(range(m), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (m - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def t_quantile(p: float, freedom: int) -> float:
    """Return the quantile of Student's t with `freedom` degrees of freedom at probability p, 0 < p < 1."""
    from scipy.special import stdtrit

    if not 0 < p < 1 or freedom < 1:
        raise ValueError(f"p was {p} and freedom {freedom}; p lies between 0 and 1, freedom is at least 1")
    return float(stdtrit(freedom, p))


def decimal(value: float, digits: int, sign: str = "") -> str:
    """Write a number with `digits` decimals; what is rounded to 0 has no minus. sign: "+" also marks numbers from 0 on."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def _exponent(value: float) -> int:
    return int(f"{abs(value):e}".split("e")[1])
