"""A sink that is dead, slow or answers errors, and ends of workers that flush what they hold."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.support.faulted import Deployment, StartDeployment, alive, until
from tests.support.sinks import LoggingSink

REPLIES = 12
SINK = "GenericAPILogger"
HOUR = "3600"


class FaultySink(LoggingSink):
    """Answers once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.may_answer = threading.Event()

    def take(self, path: str, body: bytes) -> bytes:
        self.asked.set()
        self.may_answer.wait(60)
        return super().take(path, body)


@pytest.fixture(scope="module")
def sink() -> Iterator[FaultySink]:
    with FaultySink() as running:
        yield running
        running.may_answer.set()


@pytest.fixture(scope="module")
def shared(start_deployment: StartDeployment, sink: FaultySink) -> Deployment:
    return start_deployment(
        *("--worker_flush_timeout", "3"),
        config={"litellm_settings": {"callbacks": ["generic_api"]}},
        env={
            "GENERIC_LOGGER_ENDPOINT": f"{sink.url}/logs",
            "DEFAULT_FLUSH_INTERVAL_SECONDS": HOUR,
        },
    )


@pytest.fixture
async def holding(deployment: Deployment, sink: FaultySink) -> Deployment:
    """The proxy, whose workers hold the records of some replies."""
    sink.status = 200
    sink.may_answer.set()
    await deployment.roll()
    await deployment.well()
    deployment.mark()
    sink.forget()
    sink.asked.clear()
    sink.may_answer.clear()
    for _ in range(REPLIES):
        assert (await deployment.ask()).status == 200
    await until(lambda: held(deployment) == REPLIES, "records in the status")
    return deployment


def held(deployment: Deployment) -> int:
    return sum(worker["records"] for worker in deployment.status()["workers"])


def lost(deployment: Deployment) -> int:
    number: int = deployment.status()["totals"]["records_lost"].get(SINK, 0)
    return number


def told(deployment: Deployment, line: str) -> int:
    """Add up the numbers in lines of the log since the test began."""
    return sum(map(int, re.findall(line, deployment.log())))


@pytest.mark.parametrize("dead", [True, False], ids=["does not answer", "answers errors"])
async def test_a_dead_sink_costs_its_records_and_no_request(
    holding: Deployment, sink: FaultySink, dead: bool
) -> None:
    before = lost(holding)
    former = set(holding.pids())
    if not dead:
        sink.status = 500
        sink.may_answer.set()
    async with holding.traffic(clients=2) as traffic:
        holding.signal(signal.SIGHUP)
        await until(lambda: not former & set(holding.pids()), "end of the former workers")
        await traffic.goes_on()
    assert traffic.failed == []
    number = lost(holding) - before
    assert number >= REPLIES
    assert told(holding, rf"(\d+) records for {SINK} are lost") == number
    sink.status = 200
    sink.may_answer.set()


async def signalled_while_they_flush(
    deployment: Deployment, sink: FaultySink, number: int
) -> set[int]:
    """Replace all workers, and send the former ones a signal before the sink has answered."""
    former = set(deployment.pids())
    deployment.signal(signal.SIGHUP)
    await until(sink.asked.is_set, "flush")
    for pid in former:
        os.kill(pid, number)
    return former


async def test_a_worker_that_is_killed_while_it_flushes_says_what_it_held(
    holding: Deployment, sink: FaultySink
) -> None:
    before = lost(holding)
    former = await signalled_while_they_flush(holding, sink, signal.SIGKILL)
    await until(lambda: not former & set(holding.pids()), "end of the former workers")
    assert lost(holding) - before == REPLIES
    assert told(holding, r"(\d+) records are lost with it") == REPLIES
    sink.may_answer.set()


async def test_a_worker_that_is_asked_again_while_it_flushes_goes_on(
    holding: Deployment, sink: FaultySink
) -> None:
    before = lost(holding)
    former = await signalled_while_they_flush(holding, sink, signal.SIGTERM)
    sink.may_answer.set()
    await until(lambda: not former & set(holding.pids()), "end of the former workers")
    assert (len(sink.ids("/logs")), lost(holding)) == (REPLIES, before)


async def test_workers_flush_when_their_supervisor_is_killed_meanwhile(
    holding: Deployment, sink: FaultySink
) -> None:
    """One flushes already, the other begins then. The last test: the module's proxy is gone."""
    processes = holding.proxy.processes()
    most = max(holding.status()["workers"], key=lambda worker: worker["records"])
    os.kill(most["pid"], signal.SIGTERM)
    await until(sink.asked.is_set, "flush")
    os.kill(holding.proxy.pid, signal.SIGKILL)
    sink.may_answer.set()
    await until(lambda: not any(alive(pid) for pid in processes), "end of all processes")
    assert len(sink.ids("/logs")) == REPLIES
