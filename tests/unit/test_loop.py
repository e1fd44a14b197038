"""The supervisor's loop with workers that are no processes."""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from pickle import PicklingError
from typing import Any

import pytest
from pytest_mock import MockerFixture
from uvicorn.config import Config

from litellm_resilience.session.keeper import Counters
from litellm_resilience.supervisor import commands, loop, policy
from litellm_resilience.supervisor.journal import Journal
from litellm_resilience.supervisor.launch import NotYetError
from litellm_resilience.supervisor.limits import Recycling
from litellm_resilience.supervisor.link import Said
from litellm_resilience.supervisor.loop import Plan, Supervisor
from litellm_resilience.supervisor.policy import Settings, WorkerState
from litellm_resilience.supervisor.restarts import SHORT_PAUSE
from litellm_resilience.supervisor.scoreboard import Scoreboard
from litellm_resilience.supervisor.upgrade import Upgrade


class FakeProcess:
    """Ends when it is told to; its status is known when it has been reaped, and until it is closed.

    As with a real one, its sentinel may say that it is ending before there is a status.
    """

    def __init__(self, pid: int, assignment: Any) -> None:
        self.pid = pid
        self.closed = False
        self._status: int | None = None
        # The supervisor closes its copy once the worker has been started.
        self.say = os.dup(assignment.link.connection.fileno())
        self.sentinel, self._end = os.pipe()

    def says(self, message: Said) -> None:
        self.writes(len(message.value).to_bytes(4, "big") + message.value)

    def writes(self, data: bytes) -> None:
        os.write(self.say, data)

    @property
    def exitcode(self) -> int | None:
        if self.closed:
            raise ValueError("process object is closed")
        return self._status

    def begins_to_end(self) -> None:
        os.write(self._end, b".")

    def ends(self, status: int) -> None:
        self._status = status
        self.begins_to_end()

    def kill(self) -> None:
        if self.exitcode is None:
            self.ends(-signal.SIGKILL)

    def close(self) -> None:
        if self.exitcode is None:
            raise ValueError("cannot close a process while it is still running")
        self.closed = True
        for descriptor in (self.say, self.sentinel, self._end):
            os.close(descriptor)


class FakeLauncher:
    """Starts processes that are none; says what happens next after each start."""

    method = "spawned"

    def __init__(self) -> None:
        self.context = get_context("spawn")
        self.started: list[FakeProcess] = []
        self.refusals: list[Exception] = []

    def start(self, assignment: Any, inherited: Any) -> Any:
        if self.refusals:
            raise self.refusals.pop()
        self.started.append(FakeProcess(1000 + len(self.started), assignment))
        return self.started[-1]

    def start_beside(self, task: Any, arguments: Any, inherited: Any) -> Any:
        raise AssertionError("nothing but workers is started here")

    def end(self) -> None:
        """Hold nothing."""


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def make(
    launcher: FakeLauncher, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> Callable[..., Supervisor]:
    """Make a supervisor whose signals to workers go nowhere."""
    caplog.set_level(logging.INFO)
    mocker.patch("litellm_resilience.supervisor.handle.os.kill")
    mocker.patch.object(loop, "LOOK_INTERVAL", 0.01)

    ended: list[int] = []

    def build(
        workers: int = 2, clock: Callable[[], float] = time.monotonic, reload_trial: float = 0.0
    ) -> Supervisor:
        settings = Settings(reload_trial=reload_trial)
        plan = Plan(workers, settings, Recycling(requests=5), Counters, ended.append)
        journal = Journal(logging.getLogger("test"))
        board = Scoreboard.create(launcher.context, capacity=4)
        return Supervisor(Config("x:y"), [], plan, launcher, journal, board=board, clock=clock)

    return build


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def become_ready(supervisor: Supervisor, launcher: FakeLauncher) -> None:
    """Let the supervisor start its workers and hear that all are ready."""
    supervisor._step()
    for worker in launcher.started:
        worker.says(Said.READY)
    supervisor._step()


def test_a_fault_of_the_supervisor_ends_no_worker(
    make: Callable[..., Supervisor],
    launcher: FakeLauncher,
    mocker: MockerFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    supervisor = make(1)
    supervisor._step()
    (worker,) = launcher.started
    decide = mocker.patch.object(policy, "decide", side_effect=RuntimeError("a bug"))
    assert supervisor._attempt(supervisor._step) is True
    assert "Please report this" in caplog.text
    assert not worker.closed
    assert worker.exitcode is None
    mocker.stop(decide)
    worker.says(Said.READY)
    assert supervisor._attempt(supervisor._step) is True
    assert "ready after" in caplog.text


@pytest.mark.parametrize(
    "refusal", [OSError("no more processes"), RuntimeError("not now"), PicklingError("not this")]
)
def test_a_refused_start_is_tried_again_later(
    make: Callable[..., Supervisor],
    launcher: FakeLauncher,
    caplog: pytest.LogCaptureFixture,
    refusal: Exception,
) -> None:
    """Whatever is raised: a start is a fork, or all that it takes to spawn."""
    now = 0.0
    supervisor = make(2, clock=lambda: now)
    become_ready(supervisor, launcher)
    second = launcher.started[1]
    launcher.refusals = [refusal, refusal]
    second.ends(1)
    supervisor._step()
    assert f"could not be started: {refusal}; next attempt in 1 s" in caplog.text
    assert len(launcher.started) == 2
    now = 1.5
    supervisor._step()
    assert "next attempt in 2 s" in caplog.text
    now = 4.0
    supervisor._step()
    assert len(launcher.started) == 3


def test_one_refusal_in_a_round_of_starts_is_one_failure(
    make: Callable[..., Supervisor], launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    supervisor = make(2, clock=lambda: now)
    become_ready(supervisor, launcher)
    launcher.refusals = [OSError("no more processes")] * 2
    for worker in list(launcher.started):
        worker.ends(1)
    supervisor._step()
    assert caplog.text.count("could not be started") == 1
    now = 1.0
    supervisor._step()
    assert caplog.text.count("next attempt in 2 s") == 1
    now = 3.0
    supervisor._step()
    assert len(launcher.started) == 4


def test_workers_that_must_wait_for_their_template_have_not_failed(
    make: Callable[..., Supervisor], launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    supervisor = make(2, clock=lambda: now)
    become_ready(supervisor, launcher)
    for worker in list(launcher.started):
        worker.ends(1)
    launcher.refusals = [NotYetError()] * 20
    while launcher.refusals:
        supervisor._step()
        now += SHORT_PAUSE
    supervisor._step()
    assert len(launcher.started) == 4
    assert now == 20 * SHORT_PAUSE
    assert supervisor._board.totals.boot_failures == 0
    assert caplog.text.count("loaded again") == 1
    assert "could not be started" not in caplog.text


@pytest.mark.parametrize(
    "error", [OSError("no more"), RuntimeError("no thread"), TypeError("no pickle"), MemoryError()]
)
def test_a_launch_that_fails_gives_its_row_and_its_descriptors_back(
    make: Callable[..., Supervisor],
    launcher: FakeLauncher,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    now = 0.0
    supervisor = make(1, clock=lambda: now)
    become_ready(supervisor, launcher)
    launcher.started[0].ends(1)
    launcher.refusals = [error] * 10
    gc.collect()
    descriptors = open_descriptors()
    for _ in range(10):
        supervisor._step()
        now += 100
    assert caplog.text.count("A worker could not be started: ") == 10
    assert "Please report this" not in caplog.text
    assert open_descriptors() < descriptors
    supervisor._step()
    assert len(launcher.started) == 2
    assert len(list(supervisor._board.living())) == 1


def test_workers_that_are_started_otherwise_from_now_on_are_announced(
    make: Callable[..., Supervisor], launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = make(1)
    launcher.method = supervisor._board.totals.start_method = "template"
    become_ready(supervisor, launcher)
    assert "Supervising" not in caplog.text
    launcher.method = "spawned"
    launcher.started[0].ends(1)
    supervisor._step()
    assert f"Supervising 1 worker, spawned: {loop.TEMPLATE_LOST}" in caplog.text
    assert supervisor._board.totals.start_method == "spawned"


def test_a_refused_fork_at_the_start_ends_the_service(
    make: Callable[..., Supervisor], launcher: FakeLauncher
) -> None:
    launcher.refusals = [OSError("no more processes")]
    assert make(1).run() == 1


def test_a_worker_whose_status_is_not_known_yet_is_missed_once_it_is(
    make: Callable[..., Supervisor], launcher: FakeLauncher
) -> None:
    supervisor = make(2)
    become_ready(supervisor, launcher)
    first, _ = launcher.started
    first.begins_to_end()
    supervisor._step()
    assert len(launcher.started) == 2
    first.ends(1)
    supervisor._step()
    assert first.closed
    assert len(launcher.started) == 3


def test_a_limit_is_announced_once_and_only_by_a_worker_that_serves(
    make: Callable[..., Supervisor], launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    supervisor = make(1, clock=lambda: now)
    become_ready(supervisor, launcher)
    now = 2.0
    launcher.started[0].says(Said.LIMIT)
    supervisor._step()
    launcher.started[0].says(Said.LIMIT)
    supervisor._step()
    assert caplog.text.count("will be replaced") == 1
    assert len(launcher.started) == 2


def test_a_supervisor_that_stood_still_blames_no_worker(
    make: Callable[..., Supervisor], launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    """A container that was paused: nothing turned, and nobody is to blame."""
    now = 0.0
    supervisor = make(1, clock=lambda: now)
    become_ready(supervisor, launcher)
    now = 3600.0
    supervisor._step()
    assert "Killing" not in caplog.text


@pytest.mark.parametrize(
    "nonsense", [b"\0\0\0\1?", b"\0\0\0\0", b"Hello world\n", b"\0", b"\xff" * 64]
)
def test_a_worker_that_talks_nonsense_costs_one_line_of_log(
    make: Callable[..., Supervisor],
    launcher: FakeLauncher,
    caplog: pytest.LogCaptureFixture,
    nonsense: bytes,
) -> None:
    supervisor = make(2)
    become_ready(supervisor, launcher)
    first, second = launcher.started
    for _ in range(3):
        first.writes(nonsense)
        supervisor._step()
    assert caplog.text.count("sent an unknown message") == 1
    assert "Worker 1 (pid 1000) sent" in caplog.text
    second.ends(1)
    supervisor._step()
    assert len(launcher.started) == 3
    assert "Please report this" not in caplog.text


class FailingService:
    """Raises whenever it is its turn."""

    waitables = ()

    def attend(self, now: float, inherited: Any) -> None:
        raise RuntimeError("a bug")

    def close(self) -> None:
        raise AssertionError("no worker is forked here")

    def end(self) -> None:
        pass


def test_a_fault_in_what_else_is_served_is_not_the_workers(
    make: Callable[..., Supervisor], launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = make(2)
    supervisor.services = [FailingService()]
    become_ready(supervisor, launcher)
    launcher.started[0].ends(1)
    supervisor._step()
    assert len(launcher.started) == 3
    assert "Please report this" in caplog.text


@pytest.mark.parametrize(
    ("state", "held", "line"),
    [
        (WorkerState.SERVING, 3, "died: exited with status 9; 3 records are lost with it; repl"),
        (WorkerState.SERVING, 1, "died: exited with status 9; 1 record is lost with it; replacing"),
        (WorkerState.DRAINING, 3, "exited with status 9 while draining; 3 records are lost with"),
    ],
)
def test_a_death_says_how_many_records_are_lost_with_it(
    state: WorkerState,
    held: int,
    line: str,
    make: Callable[..., Supervisor],
    launcher: FakeLauncher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    supervisor = make(1)
    become_ready(supervisor, launcher)
    (handle,) = supervisor._workers
    handle.enter(state, time.monotonic())
    supervisor._board.row(handle.slot).hold({"box": held})
    launcher.started[0].ends(9)
    supervisor._step()
    assert any(line in record.getMessage() for record in caplog.records)
    assert supervisor._board.lost_records() == {"box": held}


def test_no_worker_is_replaced_for_the_memory_that_two_proxies_need(
    make: Callable[..., Supervisor], launcher: FakeLauncher, mocker: MockerFixture
) -> None:
    supervisor = make(1)
    become_ready(supervisor, launcher)
    (worker,) = supervisor._workers
    found = worker, "holds too much"
    supervisor._group = mocker.Mock(short=True, look=mocker.Mock(return_value=found))
    under_way = mocker.patch.object(
        Upgrade, "under_way", new_callable=mocker.PropertyMock, return_value=True
    )
    supervisor._step()
    assert worker.due is None
    assert not supervisor._board.totals.memory_is_short
    under_way.return_value = False
    supervisor._step()
    assert worker.due is policy.Due.MEMORY
    assert supervisor._board.totals.memory_is_short


def told(supervisor: Supervisor, *words: str, now: float = 1.0) -> dict[str, Any]:
    return commands.perform(supervisor, supervisor._journal, words, now)


def test_each_command_says_what_it_has_done(
    make: Callable[..., Supervisor], launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = make(2)
    become_ready(supervisor, launcher)
    assert told(supervisor, "recycle", "2")["done"] == "replacing worker 2 (pid 1001)"
    assert [worker.due for worker in supervisor._workers] == [None, policy.Due.ROLL]
    assert told(supervisor, "roll")["workers"] == [1, 2]
    assert all(worker.due is policy.Due.ROLL for worker in supervisor._workers)
    supervisor.recycle(1, "", 1.0)
    supervisor._workers[0].enter(WorkerState.DRAINING, 1.0)
    assert told(supervisor, "recycle", "1") == {
        "refused": "there is no worker 1 that serves or starts"
    }
    assert told(supervisor, "recycle", "9")["refused"].startswith("there is no worker 9")
    assert told(supervisor, "workers", "2")["target"] == supervisor._demand().target == 2
    assert told(supervisor, "workers", "3")["refused"] == "there is room for 2 workers only"
    assert told(supervisor, "nonsense")["refused"].startswith("there is no command 'nonsense'")
    assert supervisor._demand().target == 2
    done = [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("Command ")
    ]
    assert done == [
        "Command recycle: replacing worker 2 (pid 1001)",
        "Command roll: replacing all workers: 1, 2",
        "Command workers: 2 workers from now on",
    ]


def tried(supervisor: Supervisor, launcher: FakeLauncher) -> list[WorkerState]:
    """Have all that was started become ready; return the states of the workers."""
    supervisor._step()
    for process in launcher.started:
        if not process.closed:
            process.says(Said.READY)
    supervisor._step()
    return [worker.state for worker in supervisor._workers]


def test_a_second_reload_during_a_trial_tries_another_worker(
    make: Callable[..., Supervisor], launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = make(1, clock=lambda: 0.0, reload_trial=9.0)
    become_ready(supervisor, launcher)
    for _ in range(3):
        assert told(supervisor, "roll")["workers"] == [1]
    assert tried(supervisor, launcher) == [WorkerState.SERVING] * 2
    told(supervisor, "roll")
    states = tried(supervisor, launcher)
    assert states == [WorkerState.SERVING, WorkerState.DRAINING, WorkerState.SERVING]
    assert supervisor.rolling
    launcher.started[2].ends(1)
    supervisor._step()
    assert "The reload is taken back: worker 3 (pid 1002) exited with status 1" in caplog.text
    assert not supervisor.rolling


def test_a_reload_is_not_taken_back_when_nobody_from_before_serves(
    make: Callable[..., Supervisor], launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = make(1, clock=lambda: 0.0, reload_trial=9.0)
    become_ready(supervisor, launcher)
    told(supervisor, "roll")
    assert tried(supervisor, launcher) == [WorkerState.SERVING] * 2
    row = supervisor._board.row(supervisor._workers[1].slot)
    launcher.started[0].ends(1)
    supervisor._step()
    row.answered.replies = row.answered.errors = 9
    supervisor._step()
    assert [worker.state for worker in supervisor._workers][:1] == [WorkerState.SERVING]
    assert "taken back" not in caplog.text


def test_a_drain_ends_and_takes_nothing_but_a_stop(
    make: Callable[..., Supervisor], launcher: FakeLauncher, mocker: MockerFixture
) -> None:
    """A stop may shorten it, never lengthen it."""
    supervisor = make(1, clock=lambda: 0.0)
    become_ready(supervisor, launcher)
    (worker,) = supervisor._workers
    drain, stop = mocker.spy(worker, "drain"), mocker.spy(worker, "stop")
    settings = Settings()
    margin = settings.flush_timeout + loop.STOP_MARGIN
    assert told(supervisor, "drain")["seconds"] == settings.drain_timeout + margin
    assert (drain.call_count, stop.call_count) == (1, 0)
    for words in (["roll"], ["recycle", "1"], ["workers", "1"], ["drain"]):
        assert told(supervisor, *words) == {"refused": "it is draining already"}
    supervisor._config.timeout_graceful_shutdown = 3
    assert told(supervisor, "stop")["seconds"] == 3 + margin
    assert told(supervisor, "stop", now=2.0)["seconds"] == 2 + margin
    assert (drain.call_count, stop.call_count) == (1, 1)
    assert told(supervisor, "drain") == {"refused": "it is stopping already"}
    launcher.started[0].ends(0)
    assert supervisor._step() is False
    assert len(launcher.started) == 1
