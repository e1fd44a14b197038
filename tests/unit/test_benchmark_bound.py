"""What a count of failures says about the loss."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import most_expected, upper_bound


def test_no_failure_is_the_rule_of_three() -> None:
    assert most_expected(0) == pytest.approx(-math.log(0.05))
    assert upper_bound(0, 100_000) == pytest.approx(3.0e-5, rel=0.01)


@pytest.mark.parametrize(("failed", "mean"), [(1, 4.744), (2, 6.296), (5, 10.513), (10, 16.962)])
def test_with_failures_it_is_the_tabulated_limit_of_a_poisson_mean(
    failed: int, mean: float
) -> None:
    assert most_expected(failed) == pytest.approx(mean, abs=0.001)


@given(st.integers(0, 3000), st.integers(1, 10**7))
def test_it_is_a_share_above_the_observed_one(failed: int, more: int) -> None:
    requests = failed + more
    assert failed / requests < upper_bound(failed, requests) <= 1


@pytest.mark.parametrize(("failed", "requests"), [(-1, 10), (11, 10), (0, 0)])
def test_impossible_counts_are_refused(failed: int, requests: int) -> None:
    with pytest.raises(ValueError, match="requests must be positive"):
        upper_bound(failed, requests)
