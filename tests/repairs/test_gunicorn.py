"""The scoreboard under gunicorn's master; with real processes in tests/process."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.repairs import metrics
from litellm_resilience.servers import gunicorn
from litellm_resilience.supervisor import scoreboard

config = pytest.importorskip("gunicorn.config")


@pytest.fixture
def cfg() -> Any:
    found = config.Config()
    found.set("workers", 2)
    found.set("max_requests", 300)
    return found


def worker(age: int, limit: int = 342) -> Any:
    return SimpleNamespace(age=age, max_requests=limit)


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
    forget.assert_called_once_with(0)
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
