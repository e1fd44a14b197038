"""`litellm-resilient --status`, from the state to the terminal."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.command import status as command
from litellm_resilience.session.keeper import Counters
from litellm_resilience.status import channel, table
from litellm_resilience.status.document import document
from litellm_resilience.supervisor.figures import Figures
from litellm_resilience.supervisor.journal import Journal
from litellm_resilience.supervisor.policy import Due, WorkerState
from litellm_resilience.supervisor.scoreboard import Scoreboard

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no Unix sockets here")


@pytest.fixture
def state() -> dict[str, Any]:
    """What a supervisor with one retiring and one booting worker tells at 200 s."""
    board = Scoreboard.create(multiprocessing.get_context("spawn"), 4)
    row = board.row(board.claim())
    row.number, row.pid, row.state = 5, 4711, WorkerState.RETIRING
    row.ready_at, row.memory, row.request_limit = 100.0, 300 * 1024 * 1024, 50
    row.reason = b"has answered 52 requests"
    counters = Counters(generation=2, recreated=1, prevented_closes=3, pool_waits=4)
    Figures(row, 0.1).turned(199.9, 52, 6, counters)
    board.row(board.claim()).started_at = 199.0
    board.totals.target = 1
    board.totals.count_recycled(Due.ROLL)
    journal = Journal(logging.getLogger())
    journal.recent.append((190.0, "Worker 5 (pid 4711) ready after 0.2 s"))
    return document(board, journal, 4242, 4000, 200.0)


def test_the_document_has_every_figure(state: dict[str, Any]) -> None:
    assert state["workers"][0] == {
        "slot": 0,
        "generation": 1,
        "number": 5,
        "pid": 4711,
        "state": "retiring",
        "reason": "has answered 52 requests",
        "age": 100.0,
        "requests": 52,
        "request_limit": 50,
        "in_flight": 6,
        "records": 0,
        "memory": 300 * 1024 * 1024,
        "event_loop_lag": 0.0,
        "session_generation": 2,
        "sessions_recreated": 1,
        "closes_prevented": 3,
        "pool_waits": 4,
    }
    assert state["workers"][1]["age"] == 1.0
    assert state["workers"][1]["request_limit"] is None
    assert state["supervisor"]["pid"] == 4242
    assert state["totals"]["recycled"] == {"requests": 0, "memory": 0, "lifetime": 0, "roll": 1}
    assert state["events"][0]["seconds_ago"] == 10.0
    json.dumps(state)


def test_the_table_shows_each_worker_in_one_line(state: dict[str, Any]) -> None:
    lines = table.render(state).splitlines()
    header, first, second = (line.split() for line in lines[4:7])
    assert header[:4] == ["slot", "worker", "pid", "state"]
    assert first[:9] == ["0", "5", "4711", "retiring", "1", "min", "40", "s", "52/50"]
    assert "booting" in second
    assert lines[7] == "worker 5 is to be replaced: it has answered 52 requests"
    assert "recycled: 1 (roll); died: 0" in lines[1]
    assert lines[2] == "sessions recreated: 1, closes prevented: 3, pool waits: 4"
    assert lines[-1].endswith("10 s ago  Worker 5 (pid 4711) ready after 0.2 s")


def test_the_table_fits_100_columns(state: dict[str, Any]) -> None:
    """With the largest figures that are usual; long sentences go on in the next line."""
    state["workers"][0] |= {
        "slot": 255,
        "number": 99_999,
        "pid": 4_194_304,
        "age": 86_399.0,
        "requests": 100_000,
        "request_limit": 100_000,
        "in_flight": 1000,
        "records": 1_000_000,
        "memory": 99_999 << 20,
        "event_loop_lag": 59.999,
        "reason": "x " * 40,
    }
    state["supervisor"]["start_obstacle"] = "these threads run: " + ", ".join(["thread"] * 40)
    state["events"] = [{"seconds_ago": 59, "event": "Supervising, " * 20 + "y" * 200}]
    shown = table.render(state)
    assert max(map(len, shown.splitlines())) <= table.WIDTH
    words = " ".join(shown.split())
    for text in ("59 s ago Supervising", "it" + " x" * 40, "thread" + ", thread" * 39, "y" * 80):
        assert text in words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3725, "1 h 2 min"), (90000, "1 d 1 h")],
)
def test_a_duration_is_told_in_its_largest_units(seconds: float, text: str) -> None:
    assert table.duration(seconds) == text


@pytest.mark.parametrize("seconds", [59.7, 3599.9, 86399.5, 119.8])
def test_a_duration_has_no_sixtieth_second(seconds: float) -> None:
    assert "60" not in table.duration(seconds)


def test_json_is_the_whole_state(
    state: dict[str, Any], mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    mocker.patch.object(channel, "ask", return_value=state)
    assert command.run(Path("/x"), as_json=True, watch=False) == 0
    assert json.loads(capsys.readouterr().out) == state


def test_nobody_to_ask_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(tmp_path / "s", as_json=False, watch=False) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "No status: no supervisor runs at" in captured.err


@pytest.mark.parametrize(("terminal", "in_place"), [(True, True), (False, False)])
def test_watching_goes_on_until_interrupted(
    state: dict[str, Any],
    mocker: MockerFixture,
    capsys: pytest.CaptureFixture[str],
    terminal: bool,
    in_place: bool,
) -> None:
    mocker.patch.object(channel, "ask", return_value=state)
    mocker.patch("sys.stdout.isatty", return_value=terminal)
    mocker.patch("time.sleep", side_effect=[None, KeyboardInterrupt])
    assert command.run(Path("/x"), as_json=False, watch=True) == 0
    shown = capsys.readouterr().out
    assert shown.count("litellm-resilience") == 2
    assert (shown.count(command.CLEAR) == 2) is in_place


def test_watched_json_is_one_object_a_line(
    state: dict[str, Any], mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    mocker.patch.object(channel, "ask", return_value=state)
    mocker.patch("time.sleep", side_effect=[None, KeyboardInterrupt])
    assert command.run(Path("/x"), as_json=True, watch=True) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [state, state]


def test_watching_ends_with_the_supervisor(
    state: dict[str, Any], mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = channel.UnavailableError("no supervisor runs at /x any more")
    mocker.patch.object(channel, "ask", side_effect=[state, gone])
    mocker.patch("time.sleep")
    assert command.run(Path("/x"), as_json=False, watch=True) == 1
    assert "any more" in capsys.readouterr().err
