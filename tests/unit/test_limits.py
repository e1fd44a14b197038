"""Each worker draws limits of its own: requests upwards, promises downwards."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litellm_resilience.supervisor.limits import MEGABYTE, Limits, Recycling

fractions = st.floats(0, 1, exclude_max=True)


def test_both_ends_of_the_request_jitter_are_drawn() -> None:
    source = random.Random(1)
    recycling = Recycling(requests=300, requests_jitter=3)
    assert {recycling.draw(source).requests for _ in range(200)} == {300, 301, 302, 303}


def test_no_jitter_draws_the_settings_themselves() -> None:
    recycling = Recycling(requests=300, memory_mb=512, lifetime=60.0, jitter=0.0)
    assert recycling.draw(random.Random(1)) == Limits(300, 512 * MEGABYTE, 60.0)


@given(
    seed=st.integers(), jitter=fractions, memory=st.integers(1, 10**6), seconds=st.floats(1, 1e6)
)
def test_memory_and_lifetime_never_exceed_what_was_promised(
    seed: int, jitter: float, memory: int, seconds: float
) -> None:
    recycling = Recycling(memory_mb=memory, lifetime=seconds, jitter=jitter)
    drawn = recycling.draw(random.Random(seed))
    assert drawn.memory is not None
    assert drawn.lifetime is not None
    least = 1 - jitter
    assert int(least * memory * MEGABYTE) - 1 <= drawn.memory <= memory * MEGABYTE
    assert least * seconds <= drawn.lifetime * (1 + 1e-9)
    assert drawn.lifetime <= seconds


def test_memory_and_lifetime_are_spread_over_the_whole_fraction() -> None:
    source = random.Random(1)
    recycling = Recycling(memory_mb=1000, lifetime=1000.0, jitter=0.2)
    draws = [recycling.draw(source) for _ in range(500)]
    for values in (
        [(draw.memory or 0) / MEGABYTE for draw in draws],
        [draw.lifetime or 0 for draw in draws],
    ):
        assert 800 <= min(values) < 810
        assert 990 < max(values) <= 1000


def test_memory_and_lifetime_are_drawn_apart() -> None:
    """A worker that holds little may still be one that lives long."""
    drawn = Recycling(memory_mb=1000, lifetime=1000.0, jitter=0.5).draw(random.Random(1))
    assert (drawn.memory or 0) / MEGABYTE != pytest.approx(drawn.lifetime)


def test_no_limit_stays_no_limit() -> None:
    recycling = Recycling(requests_jitter=100, jitter=0.5)
    assert recycling.draw(random.Random(1)) == Limits(None, None, None)


@pytest.mark.parametrize(
    ("recycling", "some"),
    [
        (Recycling(), False),
        (Recycling(requests_jitter=10, jitter=0.5), False),
        (Recycling(requests=1), True),
        (Recycling(memory_mb=1), True),
        (Recycling(lifetime=1.0), True),
        (Recycling(lifetime=0.0), True),
    ],
)
def test_any_says_whether_there_is_a_limit(recycling: Recycling, some: bool) -> None:
    assert recycling.any is some
