"""What the supervisor does, by example and against a model world in which anything may happen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litellm_resilience.supervisor.policy import (
    KILL_MARGIN,
    Action,
    Demand,
    Drain,
    Due,
    GiveUp,
    Kill,
    Postpone,
    Retire,
    Settings,
    Start,
    Worker,
    WorkerState,
    decide,
)
from litellm_resilience.supervisor.restarts import Restarts

NOW = 1000.0
SETTINGS = Settings(
    max_restarting=1,
    boot_timeout=30.0,
    drain_timeout=60.0,
    hang_timeout=20.0,
    min_lifetime=5.0,
    flush_timeout=5.0,
)


def serving(number: int, **known: Any) -> Worker:
    """Return a worker that has served for 100 s and turns."""
    return replace(
        Worker(number, WorkerState.SERVING, since=NOW - 100, ready_at=NOW - 100, turned_at=NOW),
        **known,
    )


def retiring(number: int, **known: Any) -> Worker:
    return serving(number, **{"state": WorkerState.RETIRING, "due": Due.LIFETIME, **known})


def booting(number: int, **known: Any) -> Worker:
    return replace(Worker(number, WorkerState.BOOTING, since=NOW), **known)


def draining(number: int, **known: Any) -> Worker:
    return serving(number, **{"state": WorkerState.DRAINING, "since": NOW, **known})


def decided(
    *workers: Worker,
    target: int = 2,
    max_restarting: int = 1,
    max_draining: int | None = None,
    **demand: Any,
) -> list[Action]:
    """Return what to do now."""
    return decide(
        NOW,
        workers,
        replace(SETTINGS, max_restarting=max_restarting, max_draining=max_draining),
        Demand(target=target, **demand),
    )


class TestCapacity:
    def test_a_full_set_needs_nothing(self) -> None:
        assert decided(serving(1), serving(2)) == []

    def test_missing_workers_are_started(self) -> None:
        assert decided(target=3) == [Start()] * 3
        assert decided(serving(1), target=3) == [Start()] * 2

    def test_booting_workers_are_counted(self) -> None:
        assert decided(serving(1), booting(2)) == []

    @pytest.mark.parametrize("leaving", [draining(2), serving(2, doomed=True)])
    def test_a_worker_that_leaves_is_not_counted(self, leaving: Worker) -> None:
        assert decided(serving(1), leaving) == [Start()]

    def test_a_raised_target_starts_one(self) -> None:
        assert decided(serving(1), serving(2), target=3) == [Start()]

    def test_a_lowered_target_drains_the_oldest(self) -> None:
        assert decided(serving(2), serving(1), serving(3), target=1) == [Drain(1), Drain(2)]

    def test_a_lowered_target_drains_first_what_would_be_replaced_anyway(self) -> None:
        workers = [serving(1), serving(2, due=Due.REQUESTS), retiring(3), serving(4)]
        assert decided(*workers, target=3) == [Drain(3), Retire(2), Start()]
        assert decided(*workers, target=2) == [Drain(3), Drain(2)]
        assert decided(*workers, target=1) == [Drain(3), Drain(2), Drain(1)]

    def test_a_lowered_target_leaves_booting_workers_to_become_ready(self) -> None:
        assert decided(serving(1), booting(2), booting(3), target=1) == []


class TestReplacement:
    def test_a_due_worker_is_retired_and_its_replacement_started_in_one_step(self) -> None:
        assert decided(serving(1, due=Due.REQUESTS), serving(2)) == [Retire(1), Start()]

    def test_it_serves_until_its_replacement_does(self) -> None:
        assert decided(retiring(1), serving(2), booting(3)) == []
        assert decided(retiring(1), serving(2), serving(3)) == [Drain(1)]

    def test_a_replacement_that_died_is_started_again(self) -> None:
        assert decided(retiring(1), serving(2)) == [Start()]

    def test_a_worker_that_died_is_replaced_before_another_may_drain(self) -> None:
        """Here worker 2 died while worker 1 was being replaced by worker 3."""
        assert decided(retiring(1), serving(3)) == [Start()]

    def test_a_replacement_takes_the_place_of_a_retiring_worker_that_died(self) -> None:
        assert decided(serving(2), booting(3)) == []

    def test_only_so_many_are_replaced_at_once(self) -> None:
        workers = [serving(number, due=Due.ROLL) for number in (1, 2, 3)]
        assert decided(*workers, target=3) == [Retire(1), Start()]
        assert decided(*workers, target=3, max_restarting=2) == [
            Retire(1),
            Retire(2),
            Start(),
            Start(),
        ]
        assert decided(retiring(4), booting(5), *workers, target=4) == []

    def test_the_next_is_retired_as_soon_as_the_last_drains(self) -> None:
        workers = [retiring(1), serving(2, due=Due.ROLL), serving(3)]
        assert decided(*workers) == [Drain(1), Retire(2), Start()]

    def test_of_those_over_their_memory_limit_the_largest_goes_first(self) -> None:
        workers = [
            serving(1, due=Due.REQUESTS, due_at=NOW - 50),
            serving(2, due=Due.MEMORY, due_at=NOW - 40, memory=700),
            serving(3, due=Due.MEMORY, due_at=NOW - 30, memory=900),
        ]
        assert decided(*workers, target=3, max_restarting=2) == [
            Retire(3),
            Retire(2),
            Start(),
            Start(),
        ]

    def test_otherwise_the_one_that_has_waited_longest_goes_first(self) -> None:
        workers = [
            serving(1, due=Due.REQUESTS, due_at=NOW - 10),
            serving(2, due=Due.LIFETIME, due_at=NOW - 20),
        ]
        assert decided(*workers) == [Retire(2), Start()]

    @pytest.mark.parametrize("due", [Due.REQUESTS, Due.MEMORY, Due.LIFETIME])
    def test_no_limit_replaces_a_young_worker(self, due: Due) -> None:
        assert decided(serving(1, due=due, ready_at=NOW - 4.9), target=1) == []
        assert decided(serving(1, due=due, ready_at=NOW - 5.0), target=1) == [Retire(1), Start()]

    def test_an_operator_may_replace_a_young_worker(self) -> None:
        assert decided(serving(1, due=Due.ROLL, ready_at=NOW), target=1) == [Retire(1), Start()]

    def test_a_booting_worker_that_is_due_becomes_ready_first(self) -> None:
        assert decided(booting(1, due=Due.ROLL), target=1) == []


class TestDrainingCap:
    @pytest.mark.parametrize("due", [Due.REQUESTS, Due.LIFETIME, Due.ROLL])
    def test_while_enough_drain_a_due_worker_serves_on(self, due: Due) -> None:
        workers = [serving(1, due=due), serving(2), draining(3), draining(4)]
        assert decided(*workers, max_draining=2) == [Postpone(1)]
        assert decided(*workers, max_draining=3) == [Retire(1), Start()]

    def test_it_is_said_once_for_each(self) -> None:
        workers = [serving(1, due=Due.ROLL, postponed=True), serving(2, due=Due.ROLL), draining(3)]
        assert decided(*workers, max_draining=1) == [Postpone(2)]

    def test_the_longest_postponed_goes_first_when_a_place_is_free(self) -> None:
        workers = [
            serving(1, due=Due.REQUESTS, due_at=NOW - 1, postponed=True),
            serving(2, due=Due.REQUESTS, due_at=NOW - 2, postponed=True),
            draining(3),
        ]
        assert decided(*workers, max_draining=2, max_restarting=2) == [Retire(2), Start()]

    def test_one_that_retires_will_drain(self) -> None:
        workers = [retiring(1), serving(2, due=Due.REQUESTS), serving(3), booting(4)]
        assert decided(*workers, target=3, max_restarting=2, max_draining=1) == [Postpone(2)]

    def test_one_that_leaves_now_drains(self) -> None:
        workers = [retiring(1), serving(2, due=Due.REQUESTS), serving(3)]
        assert decided(*workers, max_draining=1) == [Drain(1), Postpone(2)]

    def test_one_that_was_killed_has_not_ended_yet(self) -> None:
        workers = [serving(1, due=Due.REQUESTS), serving(2), draining(3, doomed=True)]
        assert decided(*workers, max_draining=1) == [Postpone(1)]

    def test_memory_does_not_wait(self) -> None:
        large = serving(2, due=Due.MEMORY, memory=900)
        workers = [serving(1, due=Due.REQUESTS), large, draining(3), draining(4)]
        assert decided(*workers, max_draining=2) == [Retire(2), Postpone(1), Start()]

    def test_memory_takes_a_place(self) -> None:
        workers = [serving(1, due=Due.REQUESTS), serving(2, due=Due.MEMORY), serving(3)]
        assert decided(*workers, target=3, max_restarting=2, max_draining=1) == [
            Retire(2),
            Postpone(1),
            Start(),
        ]

    def test_a_death_is_replaced_all_the_same(self) -> None:
        assert decided(serving(1), draining(3), draining(4), max_draining=1) == [Start()]

    @pytest.mark.parametrize(("target", "most"), [(1, 2), (2, 2), (8, 8)])
    def test_by_default_as_many_as_serve_may_drain(self, target: int, most: int) -> None:
        """Or a roll could not end before the streams of its first workers."""
        workers = [serving(number, due=Due.ROLL) for number in range(target)]
        others = [draining(100 + number) for number in range(most)]
        assert decided(*workers, *others[2:], target=target) == [Retire(0), Start()]
        postponed = [Postpone(number) for number in range(target)]
        assert decided(*workers, *others, target=target) == postponed


def kills(worker: Worker) -> list[int]:
    return [action.number for action in decided(worker, target=1) if isinstance(action, Kill)]


class TestKills:
    def test_a_booting_worker_is_killed_after_its_timeout_only(self) -> None:
        assert kills(booting(1, since=NOW - 30.0)) == []
        assert kills(booting(1, since=NOW - 30.1)) == [1]

    @pytest.mark.parametrize("make", [serving, retiring])
    def test_a_worker_that_accepts_is_killed_when_its_loop_stands_still(self, make: Any) -> None:
        assert kills(make(1, turned_at=NOW - 20.0)) == []
        assert kills(make(1, turned_at=NOW - 20.1)) == [1]

    @pytest.mark.parametrize("make", [booting, draining])
    def test_others_may_stand_still(self, make: Any) -> None:
        """Imports take long, and a drain has a limit of its own."""
        assert kills(make(1, turned_at=NOW - 900)) == []

    def test_a_draining_worker_may_first_end_by_itself(self) -> None:
        """It drains for a minute, flushes for five seconds, and shuts down."""
        allowed = 60.0 + 5.0 + KILL_MARGIN
        assert kills(draining(1, since=NOW - allowed)) == []
        assert kills(draining(1, since=NOW - allowed - 0.1)) == [1]

    @pytest.mark.parametrize("make", [booting, serving, retiring, draining])
    def test_nobody_is_killed_twice(self, make: Any) -> None:
        assert kills(make(1, since=NOW - 900, turned_at=NOW - 900, doomed=True)) == []

    def test_the_reason_says_how_long_was_waited(self) -> None:
        (kill,) = decided(booting(1, since=NOW - 31), serving(2), target=1)
        assert isinstance(kill, Kill)
        assert "within 30 s" in kill.reason


class TestFailedBoots:
    def test_it_gives_up_if_nothing_was_ever_ready_and_nothing_boots(self) -> None:
        assert decided(ever_ready=False, boot_failed=True) == [GiveUp()]

    def test_it_waits_for_those_that_still_boot(self) -> None:
        assert decided(booting(2), ever_ready=False, boot_failed=True) == []

    def test_it_does_not_give_up_once_a_worker_was_ready(self) -> None:
        assert decided(ever_ready=True, boot_failed=True) == [Start()] * 2

    def test_it_does_not_give_up_before_a_boot_has_failed(self) -> None:
        assert decided(ever_ready=False) == [Start()] * 2

    def test_backoff_delays_starts(self) -> None:
        assert decided(start_not_before=NOW + 0.1) == []
        assert decided(start_not_before=NOW) == [Start()] * 2

    def test_backoff_delays_nothing_else(self) -> None:
        workers = [
            serving(1, turned_at=NOW - 21),
            retiring(2),
            serving(3, due=Due.ROLL),
            serving(4),
        ]
        actions = decided(*workers, start_not_before=NOW + 10)
        assert [type(action) for action in actions] == [Kill, Drain, Retire]


@dataclass
class World:
    """Workers to which anything may happen, and a supervisor that obeys the policy."""

    target: int
    settings: Settings
    now: float = 0.0
    workers: dict[int, Worker] = field(default_factory=dict)
    hung: set[int] = field(default_factory=set)
    restarts: Restarts = field(default_factory=Restarts)
    started: int = 0
    ever_ready: bool = False
    boot_failed: bool = False
    given_up: bool = False

    def in_state(self, *states: WorkerState) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.state in states]

    def alive(self, *states: WorkerState) -> list[Worker]:
        return [worker for worker in self.in_state(*states) if not worker.doomed]

    @property
    def capacity(self) -> int:
        return len(self.alive(WorkerState.SERVING, WorkerState.RETIRING))

    @property
    def free_places(self) -> int:
        """How many more may be chosen that will drain."""
        taken = len(self.in_state(WorkerState.DRAINING)) + len(self.alive(WorkerState.RETIRING))
        return self.settings.most_draining(self.target) - taken

    def change(self, worker: Worker, **news: Any) -> None:
        self.workers[worker.number] = replace(worker, **news)

    def end(self, worker: Worker) -> None:
        """See the end of a worker, as the supervisor does."""
        del self.workers[worker.number]
        if worker.state is WorkerState.DRAINING:
            return
        if worker.ready_at is None:
            self.boot_failed = True
            self.restarts.boot_failed(self.now)
        else:
            self.restarts.died(self.now, self.now - worker.ready_at)

    # What the policy decides

    def settle(self) -> None:
        """Obey the policy until it is content, which must not take long."""
        for _ in range(3):
            actions = self.decide()
            if not actions or self.given_up:
                break
            for action in actions:
                self.obey(action)
        else:
            pytest.fail(f"never content: {actions}")
        if not self.given_up:
            self.check_nothing_is_left_undone()

    def decide(self) -> list[Action]:
        demand = Demand(self.target, self.restarts.not_before, self.ever_ready, self.boot_failed)
        return decide(self.now, list(self.workers.values()), self.settings, demand)

    def obey(self, action: Action) -> None:
        if isinstance(action, Start):
            self.start()
        elif isinstance(action, GiveUp):
            assert self.boot_failed
            assert not self.ever_ready
            assert not self.alive(WorkerState.BOOTING)
            self.given_up = True
        else:
            worker = self.workers[action.number]
            assert not worker.doomed
            if isinstance(action, Retire):
                assert worker.state is WorkerState.SERVING
                assert worker.due is not None
                assert worker.due is Due.MEMORY or self.free_places > 0
                self.change(worker, state=WorkerState.RETIRING, since=self.now)
                assert len(self.alive(WorkerState.RETIRING)) <= self.settings.max_restarting
            elif isinstance(action, Postpone):
                assert worker.state is WorkerState.SERVING
                assert worker.due not in (None, Due.MEMORY)
                assert not worker.postponed
                assert self.free_places <= 0
                self.change(worker, postponed=True)
            elif isinstance(action, Drain):
                assert worker.state in (WorkerState.SERVING, WorkerState.RETIRING)
                self.change(worker, state=WorkerState.DRAINING, since=self.now)
                assert self.capacity >= self.target
            else:
                assert self.deserves_to_be_killed(worker)
                self.change(worker, doomed=True)

    def start(self) -> None:
        assert self.now >= self.restarts.not_before
        self.started += 1
        self.workers[self.started] = Worker(self.started, WorkerState.BOOTING, since=self.now)
        missing = max(0, self.target - self.capacity)
        assert len(self.alive(WorkerState.BOOTING)) <= missing + self.settings.max_restarting

    def deserves_to_be_killed(self, worker: Worker) -> bool:
        elapsed = self.now - worker.since
        if worker.state is WorkerState.BOOTING:
            return elapsed > self.settings.boot_timeout
        if worker.state is WorkerState.DRAINING:
            allowed = self.settings.drain_timeout + self.settings.flush_timeout + KILL_MARGIN
            return elapsed > allowed
        return worker.number in self.hung

    def check_nothing_is_left_undone(self) -> None:
        assert self.capacity <= self.target
        hopeful = self.ever_ready or not self.boot_failed
        if hopeful and self.now >= self.restarts.not_before:
            # One that was given up has not been seen to end yet, and will count as a failure.
            assert self.capacity + len(self.in_state(WorkerState.BOOTING)) >= self.target
        waiting = [
            worker
            for worker in self.alive(WorkerState.SERVING)
            if worker.due is Due.ROLL
            or (worker.due and self.now - (worker.ready_at or 0) >= self.settings.min_lifetime)
        ]
        if self.free_places <= 0 and hopeful:
            assert all(worker.postponed for worker in waiting if worker.due is not Due.MEMORY)
            waiting = [worker for worker in waiting if worker.due is Due.MEMORY]
        busy = len(self.alive(WorkerState.RETIRING)) >= self.settings.max_restarting
        assert not hopeful or busy or not waiting

    # What happens to it; `choice` picks a worker or a quantity

    def wait(self, choice: int) -> None:
        self.pass_time((0.5, 5.0, 15.0, 70.0)[choice % 4])

    def pass_time(self, seconds: float) -> None:
        """Let loops turn that can, and workers end that were killed."""
        self.now += seconds
        for worker in list(self.workers.values()):
            if worker.doomed:
                self.end(worker)
            elif worker.number not in self.hung:
                self.change(worker, turned_at=self.now)

    def become_ready(self, choice: int) -> None:
        worker = pick(self.in_state(WorkerState.BOOTING), choice)
        if worker:
            self.change(
                worker,
                state=WorkerState.SERVING,
                since=self.now,
                ready_at=self.now,
                turned_at=self.now,
            )
            self.ever_ready = True
            self.restarts.ready()

    def fail_to_boot(self, choice: int) -> None:
        self.end_one(choice, WorkerState.BOOTING)

    def die(self, choice: int) -> None:
        self.end_one(choice, WorkerState.SERVING, WorkerState.RETIRING)

    def drained(self, choice: int) -> None:
        self.end_one(choice, WorkerState.DRAINING)

    def end_one(self, choice: int, *states: WorkerState) -> None:
        worker = pick(self.in_state(*states), choice)
        if worker:
            self.end(worker)

    def drain_by_itself(self, choice: int) -> None:
        """As after a SIGTERM that was not the supervisor's."""
        worker = pick(self.in_state(WorkerState.SERVING, WorkerState.RETIRING), choice)
        if worker:
            self.change(worker, state=WorkerState.DRAINING, since=self.now)

    def hang(self, choice: int) -> None:
        worker = pick(
            self.in_state(WorkerState.SERVING, WorkerState.RETIRING, WorkerState.DRAINING), choice
        )
        if worker:
            self.hung.add(worker.number)

    def reach_limit(self, choice: int) -> None:
        worker = pick([w for w in self.in_state(WorkerState.SERVING) if w.due is None], choice)
        if worker:
            due = (Due.REQUESTS, Due.MEMORY, Due.LIFETIME)[choice % 3]
            self.change(worker, due=due, due_at=self.now, memory=choice)

    def grow(self, choice: int) -> None:
        """Reach the limit of memory while it waits for another reason."""
        worker = pick([w for w in self.in_state(WorkerState.SERVING) if w.due], choice)
        if worker:
            self.change(worker, due=Due.MEMORY, memory=choice)

    def roll(self, choice: int) -> None:
        for worker in list(self.workers.values()):
            if worker.due is None:
                self.change(worker, due=Due.ROLL, due_at=self.now)

    def more(self, choice: int) -> None:
        self.target += 1

    def fewer(self, choice: int) -> None:
        self.target = max(1, self.target - 1)

    def calm_down(self) -> None:
        """Let all go well for a while."""
        for _ in range(4 + len(self.workers)):
            while self.alive(WorkerState.BOOTING):
                self.become_ready(0)
                self.settle()
            for worker in self.in_state(WorkerState.DRAINING):
                if worker.number not in self.hung:
                    self.end(worker)
            self.pass_time(100.0)
            self.settle()


def test_a_trial_wants_one_worker_more_and_replaces_nobody() -> None:
    trial = Demand(target=2, trial=True)
    workers = [serving(1, due=Due.REQUESTS), serving(2)]
    assert decide(NOW, workers, SETTINGS, trial) == [Start()]
    assert decide(NOW, [*workers, booting(3)], SETTINGS, trial) == []
    assert decide(NOW, [*workers, serving(3)], SETTINGS, trial) == []
    over = decide(NOW, [*workers, serving(3)], SETTINGS, Demand(target=2))
    assert over == [Drain(1)]


def pick(workers: list[Worker], choice: int) -> Worker | None:
    return workers[choice % len(workers)] if workers else None


EVENTS = (
    World.wait,
    World.become_ready,
    World.fail_to_boot,
    World.die,
    World.drained,
    World.drain_by_itself,
    World.hang,
    World.reach_limit,
    World.grow,
    World.roll,
    World.more,
    World.fewer,
)


@settings(max_examples=300)
@given(
    target=st.integers(1, 4),
    max_restarting=st.integers(1, 3),
    max_draining=st.none() | st.integers(1, 4),
    boots=st.booleans(),
    history=st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 11)), max_size=40),
)
def test_any_history(
    target: int,
    max_restarting: int,
    max_draining: int | None,
    boots: bool,
    history: list[tuple[Any, int]],
) -> None:
    world = World(
        target, replace(SETTINGS, max_restarting=max_restarting, max_draining=max_draining)
    )
    world.settle()
    for _ in range(target if boots else 0):
        world.become_ready(0)
    for event, choice in history:
        event(world, choice)
        world.settle()
        if world.given_up:
            return
    was_due = {worker.number for worker in world.workers.values() if worker.due}
    world.calm_down()
    if world.given_up:
        return
    assert not was_due & set(world.workers)
    states = [worker.state for worker in world.workers.values()]
    assert states == [WorkerState.SERVING] * world.target
    assert not any(worker.due for worker in world.workers.values())
