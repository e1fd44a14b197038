"""How large a share of failed requests may be, given how many of how many failed."""

from __future__ import annotations

import math

CONFIDENCE = 0.95
TOLERANCE = 1e-9


def most_expected(failed: int, confidence: float = CONFIDENCE) -> float:
    """The largest mean of a Poisson number that `failed` or fewer is still plausible for.

    It is 3.0 for 0 failures at 95 %, hence the rule of three: below 3 in N.

    Args:
        failed: how many failed.
        confidence: with which a larger mean is ruled out.

    Raises:
        ValueError: `failed` is negative, or `confidence` not between 0 and 1.
    """
    if failed < 0 or not 0 < confidence < 1:
        raise ValueError("failed must be at least 0, and confidence between 0 and 1")
    low, high = float(failed), failed + 10.0 * math.sqrt(failed + 1.0) + 50.0
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        if _at_most(failed, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def upper_bound(failed: int, requests: int, confidence: float = CONFIDENCE) -> float:
    """The share of failed requests that is not exceeded, with this confidence.

    Args:
        failed: how many failed.
        requests: of so many.
        confidence: see `most_expected`.

    Raises:
        ValueError: there were no requests, or fewer than failed.
    """
    if not 0 <= failed <= requests or not requests:
        raise ValueError("requests must be positive, and failed at most as many")
    return min(1.0, most_expected(failed, confidence) / requests)


def _at_most(count: int, mean: float) -> float:
    """The chance that a Poisson number of this mean is `count` or less."""
    if mean <= 0:
        return 1.0
    log_mean = math.log(mean)
    logarithms = (n * log_mean - mean - math.lgamma(n + 1) for n in range(count + 1))
    return math.fsum(map(math.exp, logarithms))
