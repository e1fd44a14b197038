"""What a new proxy is given, and how the old one's command is found again."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.status.succession import Succession
from litellm_resilience.supervisor import helpers, takeover, upgrade, waiting
from litellm_resilience.supervisor.loop import Service
from litellm_resilience.supervisor.policy import WorkerState
from litellm_resilience.supervisor.scoreboard import Scoreboard
from litellm_resilience.supervisor.takeover import Given, Origin, UpgradeError
from litellm_resilience.supervisor.upgrade import Upgrade


@pytest.fixture(autouse=True)
def _begun_by_nobody(mocker: MockerFixture) -> None:
    mocker.patch.object(takeover, "_origin", None)
    mocker.patch.object(upgrade, "_line", None)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def made_program(folder: Path) -> Path:
    program = folder / "bin" / takeover.PROGRAM
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_the_same_command_is_the_interpreter_with_the_original_arguments() -> None:
    origin = Origin(("python", "-X", "dev", "litellm-resilient", "--port", "1"), {}, None, None)
    assert origin.command() == [sys.executable, "-X", "dev", "litellm-resilient", "--port", "1"]


def test_another_environment_is_named_by_its_folder_or_its_program(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch.object(sys, "argv", ["litellm-resilient", "--port", "1"])
    program = made_program(tmp_path)
    origin = Origin(("python",), {}, None, None)
    assert origin.command(tmp_path) == origin.command(program) == [str(program), "--port", "1"]


@pytest.mark.parametrize("missing", ["", "bin/python", "no/such/folder"])
def test_what_is_no_program_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(FileNotFoundError, match="is no program"):
        Origin(("python",), {}, None, None).command(tmp_path / missing)


def test_the_new_proxy_has_the_environment_of_the_command_but_not_what_is_one_process_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    takeover.begin()
    monkeypatch.setenv("DATABASE_URL", "set by LiteLLM")
    origin = takeover.origin()
    assert origin is not None
    assert origin.environment["NOTIFY_SOCKET"] == "/run/notify"
    assert not {"LISTEN_PID", "DATABASE_URL"} & origin.environment.keys()


@pytest.mark.parametrize(
    "value", ["", "1", "[]", "{}", "null", '{"sockets": [999], "old": 1, "first": 1, "pid": 1}']
)
def test_descriptors_that_were_not_given_end_the_command_with_2(value: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "litellm_resilience", "--version"],
        env={**os.environ, takeover.VARIABLE: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith(f"Error: {takeover.VARIABLE} is set by")
    assert "Traceback" not in result.stderr


def test_nobody_but_the_command_can_be_upgraded() -> None:
    with socket.socket() as listener, pytest.raises(UpgradeError, match="not started as"):
        Upgrade(1, 1, print).start(0.0, [listener], None)


@pytest.fixture
def begun(mocker: MockerFixture) -> Iterator[Callable[..., Upgrade]]:
    """Begin upgrades to a piece of code."""
    begun: list[Upgrade] = []

    def begin(code: str, failed: Callable[[str], None] = print) -> Upgrade:
        origin = Origin(("python", "-c", code), dict(os.environ), None, None)
        mocker.patch.object(takeover, "_origin", origin)
        begun.append(Upgrade(10.0, 5.0, failed))
        with socket.socket() as listener:
            begun[-1].start(0.0, [listener], None)
        return begun[-1]

    yield begin
    for it in begun:
        it.kill()
        for pid in it.heirs():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        it.close()


def test_nothing_is_heard_of_a_new_proxy_that_has_taken_over(
    begun: Callable[..., Upgrade],
) -> None:
    """Its end would be heard at each look, for as long as requests are still answered here."""
    it = begun("pass")
    pid = it.pid
    assert pid is not None
    it.hand_over()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not it.look(1.0)
    assert wait(it.waitables, 0) == []


def test_the_end_of_an_upgrade_leaves_the_status_of_who_has_taken_over_to_the_first_process(
    mocker: MockerFixture,
) -> None:
    origin = Origin(("python", "-c", "raise SystemExit(7)"), dict(os.environ), None, None)
    mocker.patch.object(takeover, "_origin", origin)
    it = Upgrade(10.0, 5.0, print)
    with socket.socket() as listener:
        it.start(0.0, [listener], None)
    it.hand_over()
    (pid,) = it.heirs()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    it.close()
    del it
    gc.collect()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("pass", None),
        ("raise SystemExit(7)", "exited with status 7"),
        (f"import os; os.kill(os.getpid(), {signal.SIGABRT})", "killed by SIGABRT"),
    ],
)
def test_a_new_proxy_that_has_taken_over_fails_if_its_status_is_not_0(
    begun: Callable[..., Upgrade], tmp_path: Path, code: str, how: str | None
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    it = begun(f"open({str(gate)!r}).read(); {code}")
    it.hand_over()
    (pid,) = it.heirs()
    assert it.heir_failure() is None
    gate.write_text("")
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert it.heir_failure() == (how and f"process {pid} {how}")


WORKER = """
import os, pathlib, signal, time
folder = pathlib.Path({folder!r})
if os.fork() == 0:
    signal.signal(signal.SIGTERM, lambda *_: (folder / "asked").touch())
    (folder / "serves").touch()
    while not (folder / "answered").exists():
        time.sleep(0.01)
    os._exit(0)
time.sleep(600)
"""


@pytest.mark.parametrize("answers", [True, False])
def test_workers_of_a_new_proxy_that_has_died_may_answer_what_they_have(
    begun: Callable[..., Upgrade], tmp_path: Path, answers: bool
) -> None:
    failed: list[str] = []
    it = begun(WORKER.format(folder=str(tmp_path)), failed.append)
    pid = it.pid
    assert pid is not None
    wait_until((tmp_path / "serves").exists)
    (worker,) = helpers.group(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not it.look(1.0) and (tmp_path / "asked").exists())
    assert failed == [f"process {pid} killed by SIGKILL, likely out of memory"]
    with socket.socket() as listener, pytest.raises(UpgradeError, match=f"already: process {pid}"):
        it.start(5.9, [listener], None)
    assert not it.look(5.9)
    assert it.under_way
    assert [other.pid for other in helpers.group(pid)] == [worker.pid]
    if answers:
        (tmp_path / "answered").touch()
    wait_until(lambda: not it.look(5.9 if answers else 6.0) and not it.under_way)
    wait_until(lambda: helpers.group(pid) == [])
    assert len(failed) == 1


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_new_proxy_that_is_late_is_ended_and_another_may_follow(
    mocker: MockerFixture, tmp_path: Path, stubborn: bool
) -> None:
    began = tmp_path / "began"
    action = "IGN" if stubborn else "DFL"
    code = (
        f"import signal, time; signal.signal(15, signal.SIG_{action})\n"
        f"open({str(began)!r}, 'w'); time.sleep(600)"
    )
    mocker.patch.object(takeover, "_origin", Origin(("python", "-c", code), {}, None, None))
    failed: list[str] = []
    it = Upgrade(10.0, 5.0, failed.append)
    with socket.socket() as listener:
        it.start(0.0, [listener], None)
        pid = it.pid
        with pytest.raises(UpgradeError, match=f"already: process {pid}"):
            it.start(0.0, [listener], None)
        wait_until(began.exists)
        assert not it.look(9.9)
        assert failed == []
        assert not it.look(10.0)
        assert failed == [f"process {pid} was not ready within 10 s, it is ended"]
        if stubborn:
            assert not it.look(14.9)
            assert it.under_way
        wait_until(lambda: not it.look(15.0) and not it.under_way)
        assert len(failed) == 1
        it.start(20.0, [listener], None)
        it.kill()
        wait_until(lambda: not it.look(21.0) and not it.under_way)
        assert failed[1].endswith("killed by SIGKILL, likely out of memory")
    it.close()


def test_a_new_proxy_says_that_it_is_ready_when_all_workers_serve_and_waits_to_be_told(
    mocker: MockerFixture,
) -> None:
    from multiprocessing import get_context

    old, theirs = socket.socketpair()
    first, line = socket.socketpair()
    kill = mocker.patch("litellm_resilience.status.succession.os.kill")
    board = Scoreboard.create(get_context("spawn"), capacity=4)
    board.totals.target = 2
    made: list[str] = []

    def make() -> list[Service]:
        made.append("services")
        return []

    with old, theirs, first, line:
        it = Succession(Given([], theirs, first, 1), board, make)
        rows = [board.row(board.claim()) for _ in range(2)]
        rows[0].state = WorkerState.SERVING
        it.attend(0.0, ())
        with pytest.raises(BlockingIOError):
            old.recv(1, socket.MSG_DONTWAIT)
        rows[1].state = WorkerState.SERVING
        it.attend(0.0, ())
        it.attend(0.0, ())
        assert old.recv(2) == takeover.READY
        assert made == []
        old.send(takeover.GO)
        old.close()
        for _ in range(3):
            it.attend(0.0, ())
        assert made == ["services"]
        assert it.waitables == [first]
        kill.assert_not_called()
        line.close()
        it.attend(0.0, ())
        kill.assert_called_once_with(os.getpid(), signal.SIGTERM)
        assert it.waitables == []


def test_stop_signals_go_to_all_who_have_taken_over_and_others_to_the_last(
    mocker: MockerFixture,
) -> None:
    kill = mocker.patch("litellm_resilience.supervisor.waiting.os.kill")
    waiting.forward(signal.SIGTERM, [7, 8])
    waiting.forward(signal.SIGHUP, [7, 8])
    waiting.forward(signal.SIGHUP, [])
    assert [call.args for call in kill.call_args_list] == [
        (7, signal.SIGTERM),
        (8, signal.SIGTERM),
        (8, signal.SIGHUP),
    ]


def test_the_small_program_takes_the_status_of_the_last_who_took_over() -> None:
    """It is told of the second by the first, whose end alone ends nothing."""
    code = """
import os, socket, sys, time
from litellm_resilience.supervisor import waiting
own, theirs = socket.socketpair()
gate, opened = os.pipe()
second = os.fork()
if second == 0:
    os.read(gate, 1)
    os._exit(5)
first = os.fork()
if first == 0:
    theirs.send(f"{second}\\n".encode())
    os.write(opened, b".")
    os._exit(0)
sys.exit(waiting.wait(own, [first]))
"""
    ended = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert ended.returncode == 5
