"""What the supervisor knows of a worker, with a process that is none."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from litellm_resilience.session.keeper import Counters
from litellm_resilience.supervisor import memory
from litellm_resilience.supervisor.drain import TICK
from litellm_resilience.supervisor.figures import Figures
from litellm_resilience.supervisor.handle import STACK_DUMP_SECONDS, Handle
from litellm_resilience.supervisor.limits import MEGABYTE, Limits
from litellm_resilience.supervisor.link import Link, Said, Told
from litellm_resilience.supervisor.policy import Due, WorkerState
from litellm_resilience.supervisor.scoreboard import Scoreboard

PID = 4242
SENTINEL = 17

needs_sigquit = pytest.mark.skipif(not hasattr(signal, "SIGQUIT"), reason="no SIGQUIT here")


class FakeProcess:
    """A process that records that it was killed; nobody knows its status once it is closed."""

    def __init__(self) -> None:
        self.pid: int | None = PID
        self.sentinel = SENTINEL
        self.status: int | None = None
        self.killed = False
        self.closed = False

    @property
    def exitcode(self) -> int | None:
        if self.closed:
            raise ValueError("process object is closed")
        return self.status

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def link() -> Iterator[Link]:
    """Both ends, here."""
    link = Link.create(multiprocessing.get_context("spawn"))
    yield link
    link.supervisor.close()
    link.worker.close()


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.fixture
def board() -> Scoreboard:
    """A scoreboard whose first row is the worker's."""
    board = Scoreboard.create(multiprocessing.get_context("spawn"), capacity=2)
    board.claim()
    return board


@pytest.fixture
def figures(board: Scoreboard) -> Callable[[float, int], None]:
    """Let the worker's event loop turn at this time, having answered so many requests."""
    row = board.row(0)

    def turned(now: float, answered: int) -> None:
        Figures(row, TICK).turned(now, answered, 0, Counters())

    return turned


@pytest.fixture
def boot(link: Link, process: FakeProcess, board: Scoreboard) -> Callable[..., Handle]:
    """Start a worker at 0 s."""

    def started(**limits: Any) -> Handle:
        return Handle(
            1,
            cast("Any", process),
            link.supervisor,
            limits=Limits(**limits),
            board=board,
            slot=0,
            now=0.0,
        )

    return started


@pytest.fixture
def serve(boot: Callable[..., Handle]) -> Callable[..., Handle]:
    """Start a worker at 0 s that serves from 10 s on."""

    def serving(**limits: Any) -> Handle:
        handle = boot(**limits)
        handle.enter(WorkerState.SERVING, now=10.0)
        return handle

    return serving


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What would have been sent to whom."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


@pytest.fixture
def holding(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let every process hold this many MB."""

    def hold(megabytes: int) -> None:
        monkeypatch.setattr(memory, "resident", lambda pid: megabytes * MEGABYTE)

    return hold


class TestStates:
    def test_a_new_worker_is_booting(self, boot: Callable[..., Handle]) -> None:
        view = boot().view()
        assert (view.number, view.state, view.since) == (1, WorkerState.BOOTING, 0.0)
        assert view.ready_at is None
        assert view.due is None
        assert not view.doomed

    def test_a_ready_worker_is_seen_to_turn(self, boot: Callable[..., Handle]) -> None:
        """A long boot must not look like a hang."""
        handle = boot()
        assert handle.enter(WorkerState.SERVING, now=100.0) == 100.0
        view = handle.view()
        assert (view.since, view.ready_at, view.turned_at) == (100.0, 100.0, 100.0)

    def test_it_was_ready_only_once(self, serve: Callable[..., Handle]) -> None:
        handle = serve()
        assert handle.enter(WorkerState.RETIRING, now=15.0) == 5.0
        assert handle.enter(WorkerState.DRAINING, now=17.0) == 2.0
        assert (handle.since, handle.ready_at) == (17.0, 10.0)


class TestTalk:
    def test_it_is_heard_in_order_and_once(self, boot: Callable[..., Handle], link: Link) -> None:
        handle = boot()
        link.worker.say(Said.READY)
        link.worker.say(Said.LIMIT)
        assert handle.heard() == [Said.READY, Said.LIMIT]
        assert handle.heard() == []

    def test_last_words_are_heard(self, boot: Callable[..., Handle], link: Link) -> None:
        """Also of a worker that ended without reading what it was told."""
        handle = boot()
        handle.drain()
        link.worker.say(Said.DRAINING)
        link.worker.close()
        assert handle.heard() == [Said.DRAINING]
        assert handle.heard() == []

    def test_nobody_waits_for_a_closed_link(self, boot: Callable[..., Handle], link: Link) -> None:
        """Its end of file would wake the supervisor again and again."""
        handle = boot()
        assert handle.waitables == [link.supervisor.connection, SENTINEL]
        link.worker.close()
        handle.heard()
        assert handle.waitables == [SENTINEL]

    def test_a_worker_hears_nothing_when_nothing_was_said(self, link: Link) -> None:
        assert link.worker.told() is None

    def test_a_worker_is_told_to_drain_once(self, boot: Callable[..., Handle], link: Link) -> None:
        boot().drain()
        assert link.worker.told() is Told.DRAIN
        assert link.worker.told() is None

    @pytest.mark.parametrize(
        ("due", "chosen", "told"),
        [
            (Due.REQUESTS, False, Told.DRAIN),
            (Due.ROLL, False, Told.DRAIN),
            (Due.MEMORY, False, Told.DRAIN_AND_TELL),
            (Due.ROLL, True, Told.DRAIN_AND_TELL),
        ],
    )
    def test_a_worker_tells_what_grew_if_it_is_for_memory_or_was_chosen(
        self, serve: Callable[..., Handle], link: Link, due: Due, chosen: bool, told: Told
    ) -> None:
        handle = serve()
        handle.make_due(due, "has grown", 1.0)
        handle.tells_growth = chosen
        handle.drain()
        assert link.worker.told() is told

    def test_a_worker_notices_that_the_supervisor_is_gone(self, link: Link) -> None:
        link.supervisor.close()
        assert link.worker.told() is Told.GONE
        assert link.worker.told() is Told.GONE

    def test_a_worker_may_speak_to_nobody(self, link: Link) -> None:
        link.supervisor.close()
        link.worker.say(Said.READY)
        assert link.worker.told() is Told.GONE

    def test_a_worker_that_is_gone_may_be_told_to_drain(
        self, boot: Callable[..., Handle], link: Link
    ) -> None:
        link.worker.close()
        handle = boot()
        handle.drain()
        assert handle.heard() == []


class TestFigures:
    def test_turns_and_requests_are_seen(
        self, serve: Callable[..., Handle], figures: Callable[[float, int], None]
    ) -> None:
        handle = serve()
        figures(11.9, 7)
        handle.observe(now=12.0)
        assert handle.view().turned_at == 12.0
        assert handle.requests == 7

    def test_a_loop_that_stands_still_is_seen(
        self, serve: Callable[..., Handle], figures: Callable[[float, int], None]
    ) -> None:
        handle = serve()
        figures(11.9, 7)
        handle.observe(now=12.0)
        handle.observe(now=20.0)
        assert handle.view().turned_at == 12.0

    def test_the_supervisors_own_standstill_is_forgiven(self, serve: Callable[..., Handle]) -> None:
        """Neither as a hang nor as a slow boot or drain."""
        handle = serve()
        handle.forgive(100.0)
        view = handle.view()
        assert (view.since, view.turned_at) == (110.0, 110.0)


class TestLimits:
    def test_the_lifetime_makes_it_due_once(self, serve: Callable[..., Handle]) -> None:
        handle = serve(lifetime=60.0)
        assert not handle.observe(now=69.9)
        assert handle.observe(now=70.0)
        assert not handle.observe(now=71.0)
        view = handle.view()
        assert (view.due, view.due_at) == (Due.LIFETIME, 70.0)
        assert handle.reason == "has served for 60 s"

    def test_the_memory_makes_it_due_once(
        self, serve: Callable[..., Handle], holding: Callable[[int], None]
    ) -> None:
        handle = serve(memory=100 * MEGABYTE)
        holding(100)
        assert not handle.observe(now=20.0)
        holding(150)
        assert handle.observe(now=21.0)
        assert not handle.observe(now=22.0)
        view = handle.view()
        assert (view.due, view.due_at, view.memory) == (Due.MEMORY, 21.0, 150 * MEGABYTE)
        assert handle.reason == "holds 150 of 100 MB"

    def test_the_size_of_a_due_worker_is_kept_up_to_date(
        self, serve: Callable[..., Handle], holding: Callable[[int], None]
    ) -> None:
        """The largest is replaced first, and it may have grown while it waited."""
        handle = serve(memory=100 * MEGABYTE)
        holding(150)
        handle.observe(now=20.0)
        holding(300)
        handle.observe(now=21.0)
        assert handle.memory == 300 * MEGABYTE

    def test_the_requests_make_it_due_once(
        self, serve: Callable[..., Handle], figures: Callable[[float, int], None]
    ) -> None:
        handle = serve(requests=5)
        figures(11.9, 6)
        assert handle.reached_request_limit(now=20.0)
        assert not handle.reached_request_limit(now=21.0)
        view = handle.view()
        assert (view.due, view.due_at) == (Due.REQUESTS, 20.0)
        assert handle.reason == "has answered 6 requests"

    def test_the_first_reason_stays(self, serve: Callable[..., Handle]) -> None:
        handle = serve(lifetime=60.0)
        assert handle.make_due(Due.ROLL, "is old", now=20.0)
        assert not handle.observe(now=100.0)
        assert (handle.due, handle.reason) == (Due.ROLL, "is old")

    def test_memory_is_the_better_reason(
        self, serve: Callable[..., Handle], holding: Callable[[int], None]
    ) -> None:
        """A replacement for it is not postponed."""
        handle = serve(memory=100 * MEGABYTE)
        handle.make_due(Due.REQUESTS, "has answered 5 requests", now=20.0)
        holding(150)
        assert handle.observe(now=21.0)
        assert (handle.due, handle.reason) == (Due.MEMORY, "holds 150 of 100 MB")
        assert not handle.observe(now=22.0)

    def test_the_status_says_that_a_replacement_is_postponed(
        self, serve: Callable[..., Handle], board: Scoreboard
    ) -> None:
        handle = serve()
        handle.make_due(Due.ROLL, "is old", now=20.0)
        handle.postpone()
        assert handle.view().postponed
        assert board.row(0).reason == b"is old; postponed: enough workers drain"
        handle.enter(WorkerState.RETIRING, now=30.0)
        assert board.row(0).reason == b"is old"

    @pytest.mark.parametrize(
        "state", [WorkerState.BOOTING, WorkerState.RETIRING, WorkerState.DRAINING]
    )
    def test_only_a_serving_worker_reaches_a_limit(
        self, state: WorkerState, serve: Callable[..., Handle], holding: Callable[[int], None]
    ) -> None:
        holding(1000)
        handle = serve(memory=100 * MEGABYTE, lifetime=60.0)
        handle.enter(state, now=20.0)
        assert not handle.observe(now=1000.0)
        assert handle.due is None

    def test_without_limits_it_is_never_due(
        self, serve: Callable[..., Handle], holding: Callable[[int], None]
    ) -> None:
        holding(10**6)
        assert not serve().observe(now=1e9)


class TestEnd:
    @pytest.mark.parametrize(
        ("exitcode", "asked"),
        [(0, True), (-15, True), (-2, True), (-9, False), (-11, False), (1, False), (None, False)],
    )
    def test_it_ended_as_asked(
        self,
        exitcode: int | None,
        asked: bool,
        serve: Callable[..., Handle],
        process: FakeProcess,
    ) -> None:
        process.status = exitcode
        assert serve().ended_as_asked is asked

    @pytest.mark.usefixtures("signals")
    def test_a_killed_worker_did_not_end_as_asked(
        self, serve: Callable[..., Handle], process: FakeProcess
    ) -> None:
        handle = serve()
        handle.kill("was slow", now=20.0)
        process.status = 0
        assert not handle.ended_as_asked

    def test_a_booting_worker_is_killed_at_once(
        self,
        boot: Callable[..., Handle],
        process: FakeProcess,
        signals: list[tuple[int, int]],
    ) -> None:
        """It has no handler yet that would print its stacks."""
        handle = boot()
        handle.kill("was slow", now=20.0)
        assert process.killed
        assert signals == []
        assert handle.view().doomed

    @needs_sigquit
    @pytest.mark.parametrize(
        "state", [WorkerState.SERVING, WorkerState.RETIRING, WorkerState.DRAINING]
    )
    def test_a_later_worker_prints_its_stacks_before(
        self,
        state: WorkerState,
        serve: Callable[..., Handle],
        process: FakeProcess,
        signals: list[tuple[int, int]],
    ) -> None:
        handle = serve()
        handle.enter(state, now=15.0)
        handle.kill("hung", now=20.0)
        handle.kill_if_due(now=20.0 + STACK_DUMP_SECONDS - 0.1)
        assert signals == [(PID, signal.SIGQUIT)]
        assert not process.killed
        assert handle.view().doomed
        handle.kill_if_due(now=20.0 + STACK_DUMP_SECONDS)
        assert process.killed

    def test_no_worker_is_killed_without_a_reason(
        self, serve: Callable[..., Handle], process: FakeProcess
    ) -> None:
        serve().kill_if_due(now=1e9)
        assert not process.killed

    def test_stop_asks_with_sigterm(
        self, serve: Callable[..., Handle], signals: list[tuple[int, int]]
    ) -> None:
        serve().stop()
        assert signals == [(PID, signal.SIGTERM)]

    def test_nothing_is_sent_to_the_number_of_an_ended_worker(
        self,
        serve: Callable[..., Handle],
        process: FakeProcess,
        signals: list[tuple[int, int]],
    ) -> None:
        """Another process may have it by now."""
        process.status = 0
        serve().stop()
        assert signals == []

    def test_a_worker_that_cannot_be_signalled_is_no_error(
        self, serve: Callable[..., Handle], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused: list[tuple[int, int]] = []

        def refuse(pid: int, number: int) -> None:
            refused.append((pid, number))
            raise ProcessLookupError

        monkeypatch.setattr(os, "kill", refuse)
        handle = serve()
        handle.stop()
        assert refused == [(PID, signal.SIGTERM)]
        assert handle.view().state is WorkerState.SERVING

    def test_its_end_is_seen(self, serve: Callable[..., Handle], process: FakeProcess) -> None:
        handle = serve()
        assert not handle.has_ended()
        process.status = 0
        assert handle.has_ended()

    def test_what_was_held_for_it_is_released(
        self, serve: Callable[..., Handle], process: FakeProcess, board: Scoreboard, link: Link
    ) -> None:
        """Its row is free for the next worker, and its link is closed."""
        handle = serve()
        board.claim()
        handle.close()
        assert process.closed
        assert link.worker.told() is Told.GONE
        assert board.claim() == handle.slot


class TestMute:
    """A worker whose loop is blocked, and whose watching thread cannot say so."""

    def test_it_is_told_once(
        self, serve: Callable[..., Handle], board: Scoreboard, figures: Callable[[float, int], None]
    ) -> None:
        handle = serve()
        figures(20.0, 1)
        board.row(0).watched_at = 20.5
        handle.observe(20.0)
        assert handle.mute_for(22.0, 1.0) == 0.0
        assert handle.mute_for(22.5, 1.0) == 2.5
        assert handle.mute_for(23.0, 1.0) == 0.0

    @pytest.mark.parametrize(
        ("watched_at", "slow_callback"), [(21.1, 1.0), (0.0, 1.0), (20.5, 0.0), (20.5, 60.0)]
    )
    def test_it_is_not_told_of_one_that_says_so_itself_or_is_not_watched(
        self,
        serve: Callable[..., Handle],
        board: Scoreboard,
        figures: Callable[[float, int], None],
        watched_at: float,
        slow_callback: float,
    ) -> None:
        handle = serve()
        figures(20.0, 1)
        board.row(0).watched_at = watched_at
        handle.observe(20.0)
        assert handle.mute_for(30.0, slow_callback) == 0.0

    def test_a_process_without_a_handler_is_not_sent_what_would_end_it(
        self,
        serve: Callable[..., Handle],
        process: FakeProcess,
        signals: list[tuple[int, int]],
    ) -> None:
        handle = serve()
        for process.pid in (os.getpid(), None, 2**30):
            assert not handle.print_stacks()
        assert signals == []
