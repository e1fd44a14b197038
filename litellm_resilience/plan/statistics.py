"""Estimates from independent replications, with their confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Estimate:
    """A figure and where it lies with 95 % confidence.

    Args:
        value: the figure.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Self:
        """Return a figure that is known."""
        return cls(value, value, value)

    def map(self, function: Callable[[float], float]) -> Estimate:
        """Return what a function that never falls makes of the figure and its interval."""
        return Estimate(function(self.value), function(self.low), function(self.high))

    def contains(self, value: float) -> bool:
        """Say whether a value lies in the interval."""
        return self.low <= value <= self.high


def mean(values: Sequence[float]) -> Estimate:
    """Estimate the mean of what replications are drawn from: Student's t.

    Args:
        values: one for each replication, none of them negative; at least two.
    """
    middle = fmean(values)
    margin = _student(len(values) - 1) * stdev(values, middle) / math.sqrt(len(values))
    return Estimate(middle, max(0.0, middle - margin), middle + margin)


def proportion(hits: int, trials: int) -> Estimate:
    """Estimate a probability: Wilson's score interval.

    Args:
        hits: how often it happened.
        trials: of how many times.
    """
    share = hits / trials
    weight = _Z**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    margin = _Z * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    return Estimate(share, max(0.0, centre - margin), min(1.0, centre + margin))


def single(values: Sequence[float]) -> Estimate:
    """Return the mean of replications and the interval that holds 95 % of them.

    Args:
        values: one for each replication.
    """
    ordered = sorted(values)
    tail = int(len(ordered) * (1 - CONFIDENCE) / 2)
    return Estimate(fmean(ordered), ordered[tail], ordered[-1 - tail])


def _student(freedom: int) -> float:
    """Quantile of Student's t: its expansion in the degrees of freedom."""
    first = (_Z**3 + _Z) / 4
    second = (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    return _Z + first / freedom + second / freedom**2
