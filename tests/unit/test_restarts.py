"""When the next worker may be started, given how the last ones ended."""

from __future__ import annotations

from litellm_resilience.supervisor.restarts import (
    EARLY_DEATH_AGE,
    EARLY_DEATH_MEMORY,
    IMMEDIATE_RESTARTS,
    LONGEST_PAUSE,
    SHORT_PAUSE,
    Restarts,
)

EARLY = EARLY_DEATH_AGE - 0.1


def die_early(restarts: Restarts, count: int, now: float = 0.0) -> list[float]:
    return [restarts.died(now=now, age=EARLY) for _ in range(count)]


def fail_boots(restarts: Restarts, count: int) -> list[float]:
    """Have boots fail one after the other, each as soon as it may begin."""
    return [restarts.boot_failed(now=restarts.not_before) for _ in range(count)]


def test_a_few_early_deaths_are_answered_at_once() -> None:
    restarts = Restarts()
    assert die_early(restarts, IMMEDIATE_RESTARTS) == [0.0] * IMMEDIATE_RESTARTS
    assert restarts.not_before == 0.0


def test_further_early_deaths_wait_longer_up_to_a_limit() -> None:
    restarts = Restarts()
    die_early(restarts, IMMEDIATE_RESTARTS)
    assert die_early(restarts, 8) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_worker_that_has_served_long_ends_the_series() -> None:
    restarts = Restarts()
    die_early(restarts, IMMEDIATE_RESTARTS + 3)
    assert restarts.died(now=100.0, age=EARLY_DEATH_AGE) == 0.0
    after = die_early(restarts, IMMEDIATE_RESTARTS + 1, now=100.0)
    assert after == [0.0] * IMMEDIATE_RESTARTS + [1.0]


def test_failed_boots_wait_from_the_first_one_on() -> None:
    restarts = Restarts()
    assert fail_boots(restarts, 8) == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE]


def test_workers_of_one_round_that_fail_together_make_one_pause() -> None:
    restarts = Restarts()
    assert [restarts.boot_failed(now=10.0 + late) for late in (0.0, 0.0, 0.25, 0.5)] == [
        1.0,
        1.0,
        0.8,
        0.5,
    ]
    assert restarts.not_before == 11.0
    assert restarts.boot_failed(now=11.0) == 2.0


def test_what_is_not_there_yet_is_tried_again_soon_and_counts_as_no_failure() -> None:
    restarts = Restarts()
    for now in (10.0, 10.5, 11.0):
        restarts.delay(now)
        assert restarts.not_before == now + SHORT_PAUSE
    assert restarts.boot_failed(now=12.0) == 1.0
    restarts.delay(12.0)
    assert restarts.not_before == 13.0


def test_a_boot_that_succeeds_ends_the_series() -> None:
    restarts = Restarts()
    fail_boots(restarts, 2)
    restarts.ready()
    assert restarts.boot_failed(now=50.0) == 1.0


def test_a_later_failure_does_not_shorten_the_pause() -> None:
    restarts = Restarts()
    fail_boots(restarts, 4)
    restarts.ready()
    restarts.boot_failed(now=8.0)
    assert restarts.not_before == 15.0


def test_deaths_far_apart_are_no_series() -> None:
    restarts = Restarts()
    die_early(restarts, IMMEDIATE_RESTARTS)
    assert restarts.died(now=EARLY_DEATH_MEMORY + 1, age=EARLY) == 0.0
