"""Limits are drawn in the process that counts the requests."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from litellm_resilience.supervisor.jitter import JitteredLimit, draw


@given(limit=st.integers(1, 10**6), jitter=st.integers(0, 10**6))
def test_every_draw_lies_within_the_jitter(limit: int, jitter: int) -> None:
    assert limit <= draw(limit, jitter) <= limit + jitter


def test_both_ends_of_the_range_are_drawn() -> None:
    assert {draw(300, 2) for _ in range(500)} == {300, 301, 302}


def test_each_process_it_is_sent_to_draws_anew() -> None:
    message = pickle.dumps(JitteredLimit(300, 100))
    limits = {pickle.loads(message) for _ in range(200)}
    assert len(limits) > 20
    assert all(300 <= limit <= 400 for limit in limits)
    assert all(type(limit) is int for limit in limits)


def test_it_counts_as_a_number_in_the_process_that_made_it() -> None:
    limit = JitteredLimit(300, 0)
    assert limit == 300
    assert limit <= 300
