"""When the largest worker must go, from what the group of processes and each worker hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from litellm_resilience.supervisor.cgroup import Usage
from litellm_resilience.supervisor.headroom import (
    CEILING,
    DRAIN_SECONDS,
    SETTLED_AGE,
    SETTLED_REQUESTS,
    Headroom,
    Member,
    Verdict,
)
from litellm_resilience.supervisor.limits import MEGABYTE

SHARED = 200
"""What all workers share, and is in the resident memory of each."""


class Pod:
    """A group of processes with workers; memory in MiB.

    Args:
        limit: of all.
        others: what processes hold that are no workers, and what all share.
    """

    def __init__(self, limit: int = 1000, others: int = SHARED) -> None:
        self.limit, self.others = limit, others
        self.workers: dict[int, Member] = {}
        self.asked: list[int] = []
        self.pressure = 0.0
        self.headroom = Headroom(1, self._private)
        self.now = 100.0

    def _private(self, number: int) -> int:
        self.asked.append(number)
        return self.workers[number].resident - SHARED * MEGABYTE

    def has(self, *own: int) -> None:
        """Let there be workers with so much of their own, which have settled."""
        for number, size in enumerate(own, start=1):
            self.set(number, size)

    def set(self, number: int, own: int, **known: object) -> None:
        before = self.workers.get(number, Member(number, 0, SETTLED_AGE, SETTLED_REQUESTS, 0.3))
        after = replace(before, resident=(SHARED + own) * MEGABYTE, **known)  # type: ignore[arg-type]
        self.workers[number] = after

    @property
    def used(self) -> int:
        return self.others + sum(w.resident // MEGABYTE - SHARED for w in self.workers.values())

    def look(self, seconds: float = 0.5) -> Verdict:
        self.now += seconds
        group = Usage(self.limit * MEGABYTE, self.used * MEGABYTE, self.pressure)
        return self.headroom.look(self.now, group, list(self.workers.values()))

    def settle(self) -> None:
        """Let growth be forgotten, and nothing have been chosen lately."""
        for _ in range(100):
            self.look(60)


@pytest.fixture
def pod() -> Pod:
    return Pod()


def test_nothing_is_replaced_while_there_is_room(pod: Pod) -> None:
    pod.has(50, 50, 250, 60)
    assert pod.look() == Verdict()


def test_the_largest_goes_before_the_ceiling_with_room_for_its_replacement(pod: Pod) -> None:
    pod.has(50, 50, 60, 60)
    pod.settle()
    for own in range(60, 700):
        pod.set(3, own)
        verdict = pod.look(60)
        if verdict.replace:
            break
    assert verdict == Verdict(3, own * MEGABYTE)
    assert pod.used == pytest.approx(CEILING * pod.limit - 50, abs=2)


def test_more_room_is_kept_where_memory_grows_fast(pod: Pod) -> None:
    pod.has(50, 50, 60, 60)
    pod.settle()
    for own in range(60, 700, 10):
        pod.set(3, own)
        if pod.look().replace:
            break
    assert CEILING * pod.limit - 50 - pod.used >= 10 * DRAIN_SECONDS


def test_one_that_leaves_is_gone_for_the_plan(pod: Pod) -> None:
    pod.has(50, 50, 60, 60)
    pod.settle()
    pod.set(3, 500)
    assert pod.look(60).replace == 3
    pod.set(3, 500, leaving=True)
    pod.set(4, 90)
    assert pod.look(60) == Verdict()


def test_where_one_leaves_too_slowly_the_next_goes(pod: Pod) -> None:
    pod.has(50, 50, 60, 60)
    pod.settle()
    pod.set(3, 500)
    pod.look(60)
    pod.set(3, 500, leaving=True)
    pod.set(4, 300)
    assert pod.look(DRAIN_SECONDS) == Verdict(4, 300 * MEGABYTE, short=True)
    assert pod.look() == Verdict(short=True), "not all at once"


def test_a_worker_that_holds_no_more_than_a_new_one_stays(pod: Pod) -> None:
    """A pod that is too small for its workers must not replace them all the time."""
    pod.has(170, 175, 180, 190)
    for _ in range(50):
        assert pod.look(10) == Verdict(short=True, helpless=True)


def test_nothing_helps_against_another_process(pod: Pod) -> None:
    pod.has(50, 50, 55, 60)
    pod.settle()
    pod.others = 900
    assert pod.look(10) == Verdict(short=True, helpless=True)


def test_before_any_worker_has_settled_one_goes_now_and_then(pod: Pod) -> None:
    """Leaks may be so fast that none ever does, or a start may just take much."""
    for number in (1, 2, 3):
        pod.set(number, 240 + number, age=0.5, requests=1)
    chosen = [pod.look(0.5).replace for _ in range(30)]
    assert chosen[0] == 3
    assert 1 < len([number for number in chosen if number]) <= 30 * 0.5 / SETTLED_AGE + 1


def test_a_worker_that_boots_is_not_chosen(pod: Pod) -> None:
    pod.set(1, 750, age=None)
    assert pod.look(10) == Verdict(short=True)


@pytest.mark.parametrize("percent", [0.0, 5.0])
def test_little_pressure_means_nothing(pod: Pod, percent: float) -> None:
    pod.has(50, 300)
    pod.settle()
    pod.pressure = percent
    assert pod.look(10) == Verdict()


def test_under_pressure_memory_is_short_and_the_largest_goes(pod: Pod) -> None:
    pod.has(50, 300)
    pod.settle()
    pod.pressure = 15.0
    assert pod.look(10) == Verdict(2, 300 * MEGABYTE, short=True)


def test_a_limit_that_is_lowered_counts_at_once(pod: Pod) -> None:
    pod.has(50, 50, 100)
    pod.settle()
    pod.limit = 450
    assert pod.look(10).replace == 3


def test_it_is_asked_seldom_what_is_a_worker_s_own(pod: Pod) -> None:
    """That takes milliseconds, in which the worker can map no memory."""
    pod.has(50, 50, 60, 60)
    for _ in range(1000):
        pod.look()
    assert sorted(pod.asked) == [1, 2, 3, 4]


def test_a_worker_is_forgotten_with_its_end(pod: Pod) -> None:
    pod.has(*[50] * 4)
    pod.look()
    for number in range(5, 200):
        del pod.workers[number - 4]
        pod.set(number, 50)
        pod.look()
    assert len(pod.headroom._own) == 4


@pytest.mark.parametrize(
    ("limit", "rate", "drain"),
    [
        (800, 1, 1.0),
        (800, 1, 5.0),
        (800, 5, 1.0),
        (2000, 1, 1.0),
        (2000, 10, 5.0),
        (2000, 40, 1.0),
        (4000, 40, 5.0),
    ],
)
def test_a_leak_never_reaches_the_limit(limit: int, rate: int, drain: float) -> None:
    """All workers grow by `rate` MiB in a second; a replacement takes half a second to start.

    What grows while a worker drains must fit: no plan can hold 40 MiB in a second, which stay for
    5 s, in 500 MiB.
    """
    pod = Pod(limit)
    pod.has(50, 50, 50, 50)
    ends: dict[int, float] = {}
    newest, recycles, highest = 4, 0, 0.0
    while pod.now < 100 + 40 * limit / rate and recycles < 60:
        verdict = pod.look()
        if verdict.replace is not None:
            recycles += 1
            newest += 1
            gone = pod.workers[verdict.replace]
            pod.workers[gone.number] = replace(gone, leaving=True)
            pod.set(newest, 50, age=0.0, requests=0)
            ends[gone.number] = pod.now + 0.5 + drain
        for number in [number for number, end in ends.items() if end <= pod.now]:
            del ends[number], pod.workers[number]
        for worker in list(pod.workers.values()):
            if not worker.leaving:
                pod.workers[worker.number] = replace(
                    worker,
                    resident=worker.resident + int(0.5 * rate * MEGABYTE),
                    age=(worker.age or 0.0) + 0.5,
                    requests=worker.requests + rate,
                )
        highest = max(highest, pod.used)
    assert recycles >= 30
    assert highest < limit
