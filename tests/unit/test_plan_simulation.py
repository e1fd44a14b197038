"""The two behaviours that are simulated, by example and by property."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litellm_resilience.plan import resilient, upstream
from litellm_resilience.plan.scenario import Scenario
from litellm_resilience.plan.timeline import Recycle, Timeline, collect

DUE_TOGETHER = Scenario(
    workers=3, limit=100, jitter=0, rate=30, boot_seconds=9, ready_seconds=2, even_split=True
)
Behaviour = Callable[[Scenario, random.Random], Iterator[Recycle]]

scenarios = st.builds(
    Scenario,
    workers=st.integers(1, 6),
    limit=st.integers(1, 500),
    jitter=st.integers(0, 500),
    rate=st.floats(0.5, 200),
    boot_seconds=st.floats(0.1, 60),
    ready_seconds=st.floats(0.1, 20),
    max_restarting=st.integers(1, 3),
    drain_seconds=st.floats(0.1, 100),
    max_draining=st.integers(1, 4),
    min_lifetime=st.floats(0, 5),
    even_split=st.booleans(),
)
behaviours = st.sampled_from([upstream.recycles, resilient.recycles])


def simulated(behaviour: Behaviour, scenario: Scenario, seed: int = 0, most: int = 60) -> Timeline:
    return collect(scenario.workers, behaviour(scenario, random.Random(seed)), 1e9, most)


def test_two_workers_without_jitter_stop_together() -> None:
    """They reach their limits at once, and nothing serves until one is back."""
    scenario = Scenario(workers=2, limit=100, jitter=0, rate=10, boot_seconds=5, even_split=True)
    timeline = collect(2, upstream.recycles(scenario, random.Random(0)), 25.0)
    assert [(each.stopped, each.resumed) for each in timeline.recycles] == [(20, 25), (20, 25)]
    assert timeline.capacity == ((0.0, 2), (20.0, 0))
    assert timeline.silent_seconds == timeline.together_seconds == 5


def test_the_survivor_takes_the_whole_load() -> None:
    """One stops with 30 requests to go for the other, which serves them at the full rate."""

    class Draws(random.Random):
        numbers = iter((0, 30, 0, 0))

        def randint(self, a: int, b: int) -> int:
            return next(self.numbers)

    scenario = Scenario(workers=2, limit=100, jitter=99, rate=10, boot_seconds=5, even_split=True)
    first, second = islice(upstream.recycles(scenario, Draws()), 2)
    assert first.stopped == 20
    assert second.stopped == pytest.approx(23)


def test_what_waits_while_nothing_serves_goes_to_the_first_that_is_back() -> None:
    """Both are back after 5 s; the first finds 50 of its 100 requests waiting."""
    scenario = Scenario(workers=2, limit=100, jitter=0, rate=10, boot_seconds=5, even_split=True)
    recycles = list(islice(upstream.recycles(scenario, random.Random(0)), 4))
    assert [each.stopped for each in recycles] == pytest.approx([20, 20, 35, 40])


def test_one_worker_loses_what_comes_while_it_is_down() -> None:
    scenario = Scenario(workers=1, limit=100, jitter=0, rate=10, boot_seconds=5, even_split=True)
    recycles = list(islice(upstream.recycles(scenario, random.Random(0)), 3))
    assert [each.stopped for each in recycles] == pytest.approx([10, 25, 40])


def test_ours_replaces_one_at_a_time() -> None:
    """All are due at once; each waits for its predecessor's replacement, and serves on."""
    scenario = replace(DUE_TOGETHER, max_restarting=1, max_draining=3)
    recycles = list(islice(resilient.recycles(scenario, random.Random(0)), 3))
    assert [each.due for each in recycles] == pytest.approx([10, 10, 10])
    assert [each.stopped for each in recycles] == pytest.approx([12, 14, 16])


def test_ours_waits_at_the_cap_until_a_worker_has_drained() -> None:
    scenario = replace(DUE_TOGETHER, drain_seconds=7, max_draining=1)
    recycles = list(islice(resilient.recycles(scenario, random.Random(0)), 3))
    assert [each.stopped for each in recycles] == pytest.approx([12, 21, 30])


def test_ours_replaces_no_worker_younger_than_its_least_lifetime() -> None:
    scenario = Scenario(
        workers=1,
        limit=1,
        jitter=0,
        rate=100,
        boot_seconds=9,
        ready_seconds=0.5,
        min_lifetime=2,
        drain_seconds=1,
    )
    recycles = list(islice(resilient.recycles(scenario, random.Random(0)), 3))
    assert [each.stopped for each in recycles] == pytest.approx([2.5, 5, 7.5])


def test_ours_overshoots_when_recycles_come_faster_than_replacements() -> None:
    scenario = Scenario(
        workers=2,
        limit=10,
        jitter=0,
        rate=100,
        boot_seconds=9,
        ready_seconds=3,
        min_lifetime=0,
        max_draining=9,
    )
    timeline = simulated(resilient.recycles, scenario)
    assert timeline.seconds / len(timeline.recycles) == pytest.approx(3, rel=0.05)
    assert timeline.down_seconds == 0


@given(behaviour=behaviours, scenario=scenarios, seed=st.integers())
@settings(max_examples=50)
def test_the_same_seed_gives_the_same_run(
    behaviour: Behaviour, scenario: Scenario, seed: int
) -> None:
    first, second = (simulated(behaviour, scenario, seed) for _ in range(2))
    assert first == second


@given(scenario=scenarios, seed=st.integers())
@settings(max_examples=50)
def test_ours_never_has_fewer_workers_than_asked_for(scenario: Scenario, seed: int) -> None:
    timeline = simulated(resilient.recycles, scenario, seed)
    assert {count for _, count in timeline.capacity} == {scenario.workers}
    assert timeline.down_seconds == 0
    assert timeline.together()[0] == 0


@given(scenario=scenarios, seed=st.integers())
@settings(max_examples=50)
def test_ours_keeps_every_worker_until_its_limit(scenario: Scenario, seed: int) -> None:
    """And replaces no more at once than it may."""
    recycles = simulated(resilient.recycles, scenario, seed).recycles
    assert all(each.stopped >= each.due + scenario.ready_seconds - 1e-6 for each in recycles)
    for number, recycle in enumerate(recycles):
        begun = recycle.stopped - scenario.ready_seconds
        under_way = [each for each in recycles[:number] if each.stopped > begun + 1e-6]
        assert len(under_way) < scenario.max_restarting
        draining = [
            each
            for each in recycles[:number]
            if each.stopped + scenario.drain_seconds > begun + 1e-6
        ]
        assert len(draining) < scenario.max_draining


@given(scenario=scenarios, seed=st.integers())
@settings(max_examples=50)
def test_the_integral_of_the_capacity_is_what_was_not_down(scenario: Scenario, seed: int) -> None:
    timeline = simulated(upstream.recycles, scenario, seed)
    moments = [moment for moment, _ in timeline.capacity] + [timeline.seconds]
    served = sum(
        count * (after - moment)
        for (moment, count), after in zip(timeline.capacity, moments[1:], strict=True)
    )
    assert served + timeline.down_seconds == pytest.approx(scenario.workers * timeline.seconds)
    assert all(0 <= count <= scenario.workers for _, count in timeline.capacity)


@given(
    scenario=scenarios.filter(lambda scenario: scenario.workers > 1 and scenario.even_split),
    seed=st.integers(),
)
@settings(max_examples=50)
def test_every_request_is_served_by_a_worker_before_its_limit(
    scenario: Scenario, seed: int
) -> None:
    """What the limits of the recycled workers add up to is what has arrived, but for those left."""
    most = 60
    recycles = list(islice(upstream.recycles(scenario, random.Random(seed)), most))
    arrived = scenario.pod_rate * recycles[-1].stopped
    unfinished = scenario.workers * (scenario.limit + scenario.jitter)
    assert most * scenario.limit <= arrived + 1e-6
    backlogs = most * scenario.boot_seconds * scenario.pod_rate
    assert arrived <= most * (scenario.limit + scenario.jitter) + unfinished + backlogs


@given(seed=st.integers(0, 2**32), limit=st.integers(1, 10_000))
@settings(max_examples=50)
def test_a_random_split_is_as_even_as_a_poisson_process(seed: int, limit: int) -> None:
    """Its mean is the limit, its standard deviation the square root of that."""
    scenario = Scenario(workers=2, limit=limit, jitter=0, rate=1, boot_seconds=1)
    source = random.Random(seed)
    drawn = [scenario.draw_share(source) for _ in range(100)]
    assert abs(sum(drawn) / 100 - limit) < 6 * limit**0.5 / 10


def test_boots_are_drawn_from_those_given() -> None:
    scenario = Scenario(workers=2, limit=10, jitter=0, rate=10, boot_seconds=5)
    recycles = islice(upstream.recycles(scenario, random.Random(0), (1.0, 2.5)), 50)
    assert {round(each.resumed - each.stopped, 6) for each in recycles} == {1.0, 2.5}
