"""Figures as an operator reads them."""

from __future__ import annotations

import math

from litellm_resilience.plan.scenario import DAY

UNITS = ((DAY, "days"), (3600.0, "h"), (60.0, "min"))


def number(value: float) -> str:
    """Return three digits, or two below 1, without an exponent.

    Args:
        value: not negative.
    """
    places = 1 if value == 0 else (2 if value >= 1 else 1) - math.floor(math.log10(value))
    text = f"{value:,.{max(0, places)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float) -> str:
    """Return a share in percent.

    Args:
        share: 0 to 1.
    """
    return f"{number(share * 100)} %"


def seconds(value: float, beside: float = 0.0) -> str:
    """Return a time, in a unit of which there are ten or more.

    Args:
        value: seconds.
        beside: seconds that are shown beside it; both get the unit of the larger one.
    """
    largest = max(value, beside)
    size, name = next((unit for unit in UNITS if largest >= 10 * unit[0]), (1.0, "s"))
    return f"{number(value / size)} {name}"
