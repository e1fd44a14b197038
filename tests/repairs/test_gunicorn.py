"""The scoreboard under gunicorn's master; with real processes in tests/process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.repairs import metrics
from litellm_resilience.servers import gunicorn
from litellm_resilience.supervisor import helpers, scoreboard

config = pytest.importorskip("gunicorn.config")


@pytest.fixture
def cfg() -> Any:
    found = config.Config()
    found.set("workers", 2)
    found.set("max_requests", 300)
    return found


def worker(age: int, limit: int = 342) -> Any:
    return SimpleNamespace(age=age, pid=1000 + age, max_requests=limit)


def test_each_worker_has_a_row_from_before_its_fork_until_it_is_reaped(
    cfg: Any, mocker: MockerFixture
) -> None:
    entered = mocker.patch.object(scoreboard, "enter")
    forget = mocker.patch.object(metrics, "forget")
    board = gunicorn.keep_scoreboard(cfg)
    first, second = worker(1), worker(2)
    cfg.pre_fork(None, first)
    cfg.pre_fork(None, second)
    assert [row.number for _, row in board.living()] == [1, 2]
    cfg.post_fork(None, second)
    entered.assert_called_once_with(board, 1)
    assert (board.row(1).pid, board.row(1).request_limit) == (os.getpid(), 342)
    cfg.child_exit(None, first)
    forget.assert_called_once_with(board, 0)
    assert [row.number for _, row in board.living()] == [2]
    assert (board.totals.target, board.totals.started) == (2, 2)


def test_hooks_that_were_set_before_are_still_called(cfg: Any) -> None:
    called: list[Any] = []

    def child_exit(arbiter: Any, ended: Any) -> None:
        called.append((arbiter, ended))

    cfg.set("child_exit", child_exit)
    gunicorn.keep_scoreboard(cfg)
    unknown = worker(7)
    cfg.child_exit("arbiter", unknown)
    assert called == [("arbiter", unknown)]


def test_a_full_board_costs_a_worker_its_row_and_nothing_else(
    cfg: Any, mocker: MockerFixture
) -> None:
    mocker.patch.object(scoreboard, "CAPACITY", 1)
    cfg.set("workers", 0)
    entered = mocker.patch.object(scoreboard, "enter")
    gunicorn.keep_scoreboard(cfg)
    cfg.pre_fork(None, worker(1))
    cfg.pre_fork(None, worker(2))
    cfg.post_fork(None, worker(2))
    assert not entered.called


@pytest.fixture
def worker_with_helper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, Any], Any]]:
    """Let a worker start a process, in a session of its own, as if it were forked here."""
    monkeypatch.setenv(helpers.MARK, "")
    started: list[subprocess.Popen[bytes]] = []

    def start(cfg: Any, it: Any) -> subprocess.Popen[bytes]:
        cfg.pre_fork(None, it)
        cfg.post_fork(None, it)
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        started.append(subprocess.Popen(command, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_what_a_worker_has_started_ends_with_it_or_with_the_master(
    cfg: Any, worker_with_helper: Any, mocker: MockerFixture
) -> None:
    mocker.patch.object(gunicorn, "name_process")
    gunicorn.end_helpers(cfg, ())
    first, second = worker(1), worker(2)
    helper, other = worker_with_helper(cfg, first), worker_with_helper(cfg, second)
    arbiter = mocker.Mock()
    cfg.child_exit(arbiter, first)
    assert helper.poll() is not None
    assert other.poll() is None
    assert arbiter.log.warning.call_args.args[-1] == helper.pid
    unknown = mocker.patch.object(helpers, "mark_of", return_value=None)  # as during its exec
    cfg.child_exit(arbiter, second)
    assert other.poll() is None
    mocker.stop(unknown)
    cfg.on_exit(arbiter)
    assert other.poll() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_what_is_to_outlive_a_worker_does(
    cfg: Any, worker_with_helper: Any, mocker: MockerFixture
) -> None:
    mocker.patch.object(gunicorn, "name_process")
    gunicorn.end_helpers(cfg, [Path(sys.executable).name])
    helper = worker_with_helper(cfg, worker(1))
    cfg.child_exit(mocker.Mock(), worker(1))
    cfg.on_exit(mocker.Mock())
    assert helper.poll() is None
