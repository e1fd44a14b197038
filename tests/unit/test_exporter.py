"""The exporter as its supervisor sees it, and how it takes its ports."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import socket
from typing import Any

import pytest

from litellm_resilience.status import exporter
from litellm_resilience.status.exporter import Exporter, Offer
from litellm_resilience.supervisor.scoreboard import Scoreboard

OFFER = Offer("127.0.0.1", metrics_port=9464, health_port=9465)


class FakeProcess:
    """One that runs until it is said to have ended."""

    exitcode: int | None = None
    closed = False

    def __init__(self) -> None:
        self.sentinel, self._end = os.pipe()

    def ends(self, status: int) -> None:
        self.exitcode = status
        os.write(self._end, b".")

    def close(self) -> None:
        os.close(self.sentinel)
        os.close(self._end)


class FakeLauncher:
    """Starts no process; keeps its end of the pipe."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.processes: list[FakeProcess] = []
        self.ends: list[Any] = []

    def start_beside(self, task: Any, arguments: Any, inherited: Any) -> Any:
        descriptor = os.dup(arguments[0].fileno())
        self.ends.append(multiprocessing.connection.Connection(descriptor))
        self.processes.append(FakeProcess())
        return self.processes[-1]

    def says(self, *what: Any) -> None:
        self.ends[-1].send_bytes(json.dumps(what).encode())


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def drained() -> list[float]:
    """Return when a drain was asked for."""
    return []


@pytest.fixture
def served(
    launcher: FakeLauncher, drained: list[float], caplog: pytest.LogCaptureFixture
) -> Exporter:
    caplog.set_level(logging.INFO)
    board = Scoreboard.create(launcher.context, 1)
    log = logging.getLogger("test")
    return Exporter(launcher, board, OFFER, drained.append, log)  # type: ignore[arg-type]


@pytest.mark.skipif(os.name != "posix", reason="pipes are made of descriptors here")
class TestSupervisorsView:
    def test_a_port_is_named_once_it_is_bound_and_its_problem_once(
        self, served: Exporter, launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
    ) -> None:
        served.attend(0.0, [])
        assert caplog.text == ""
        for problem in ["Address already in use", "Address already in use", None]:
            launcher.says(9464, problem)
            launcher.says(9465, None)
            served.attend(1.0, [])
        messages = [record.getMessage() for record in caplog.records]
        metrics = "metrics at http://127.0.0.1:9464/metrics"
        assert messages == [
            f"Cannot listen for {metrics}: Address already in use; trying again every 10 s",
            "Health at http://127.0.0.1:9465/ready",
            "Metrics at http://127.0.0.1:9464/metrics",
        ]

    def test_a_drain_is_passed_on(
        self, served: Exporter, launcher: FakeLauncher, drained: list[float]
    ) -> None:
        served.attend(0.0, [])
        launcher.says("drain")
        served.attend(7.0, [])
        served.attend(8.0, [])
        assert drained == [7.0]

    def test_one_that_ends_is_started_again_a_while_later(
        self, served: Exporter, launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
    ) -> None:
        served.attend(0.0, [])
        launcher.ends[0].close()
        served.attend(1.0, [])
        assert served.waitables == [launcher.processes[0].sentinel], "nothing more to hear"
        launcher.processes[0].ends(1)
        served.attend(2.0, [])
        assert "The metrics exporter has ended with status 1; next attempt in 10 s" in caplog.text
        served.attend(11.0, [])
        assert len(launcher.processes) == 1
        served.attend(12.0, [])
        assert len(launcher.processes) == 2

    @pytest.mark.parametrize("said", [b"\x00\x00\x01\x00half", b"\xff\xff\xff\xff"])
    def test_what_is_no_message_is_not_waited_for(
        self, served: Exporter, launcher: FakeLauncher, said: bytes
    ) -> None:
        served.attend(0.0, [])
        os.write(launcher.ends[0].fileno(), said)
        served.attend(1.0, [])
        served.attend(2.0, [])
        assert served.waitables == [launcher.processes[0].sentinel]


def test_an_address_is_named_as_it_is_typed() -> None:
    assert Offer("::1", health_port=1).place(1) == "health at http://[::1]:1/ready"


async def test_a_port_is_served_once_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "RESTART_PAUSE", 0.01)
    said: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        serving = asyncio.create_task(
            exporter._serve_at("127.0.0.1", port, application, lambda *what: said.append(what))
        )
        while len(said) < 2:
            await asyncio.sleep(0.01)
    while said[-1] != (port, None):
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 204")
    writer.close()
    serving.cancel()
    assert {what for _, what in said} == {"Address already in use", None}
