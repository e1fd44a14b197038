"""A few early deaths are answered at once; workers that keep dying are started less often."""

from __future__ import annotations

from litellm_resilience.backoff import Backoff
from litellm_resilience.supervisor.restarts import LENIENT, PROVEN, Restarts

EARLY = PROVEN - 0.1


def die_early(restarts: Restarts, times: int, now: float = 0.0) -> list[float]:
    return [restarts.died(now, EARLY) for _ in range(times)]


def test_some_early_deaths_are_answered_at_once() -> None:
    restarts = Restarts()
    assert die_early(restarts, LENIENT) == [0.0] * LENIENT
    assert restarts.not_before == 0.0


def test_further_early_deaths_are_answered_later_and_later() -> None:
    restarts = Restarts(Backoff(first=1.0, factor=2.0, cap=5.0))
    die_early(restarts, LENIENT)
    assert die_early(restarts, 5) == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_death_after_a_proven_time_resets_the_count() -> None:
    restarts = Restarts()
    die_early(restarts, LENIENT + 3)
    assert restarts.died(now=100.0, age=PROVEN) == 0.0
    assert die_early(restarts, LENIENT + 1, now=100.0) == [0.0] * LENIENT + [1.0]


def test_failed_boots_back_off_from_the_first_one() -> None:
    restarts = Restarts(Backoff(first=1.0, factor=2.0, cap=3.0))
    assert [restarts.boot_failed(now=0.0) for _ in range(4)] == [1.0, 2.0, 3.0, 3.0]


def test_the_pause_counts_from_the_failure() -> None:
    restarts = Restarts(Backoff(first=2.0))
    restarts.boot_failed(now=50.0)
    assert restarts.not_before == 52.0


def test_a_shorter_pause_does_not_cut_a_longer_one_short() -> None:
    restarts = Restarts(Backoff(first=1.0, factor=10.0))
    restarts.boot_failed(now=0.0)
    restarts.boot_failed(now=0.0)
    restarts.ready()
    assert restarts.boot_failed(now=1.0) == 1.0
    assert restarts.not_before == 10.0


def test_a_ready_worker_resets_the_failed_boots() -> None:
    restarts = Restarts(Backoff(first=1.0))
    restarts.boot_failed(now=0.0)
    restarts.boot_failed(now=0.0)
    restarts.ready()
    assert restarts.boot_failed(now=0.0) == 1.0


def test_a_ready_worker_does_not_hide_that_workers_die_early() -> None:
    """A worker that dies whenever it serves was ready each time before."""
    restarts = Restarts()
    die_early(restarts, LENIENT)
    restarts.ready()
    assert die_early(restarts, 1) == [1.0]
