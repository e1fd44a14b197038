"""Workers that die: only what they had in hand is lost, and they are replaced at once."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from litellm_resilience.demo.load import Reply, RequestError
from tests.support import sabotage
from tests.support.faulted import Deployment, StartDeployment, alive, until

LONG_STREAM = {"chunks": 600, "chunk_interval": 0.05}


@pytest.fixture(scope="module")
def shared(start_deployment: StartDeployment) -> Deployment:
    return start_deployment("--max_worker_memory_mb", "1500", "--worker_drain_timeout", "60")


async def test_killed_while_idle_costs_nothing(deployment: Deployment) -> None:
    victim, other = await deployment.well()
    client = await deployment.connect_to(other)
    os.kill(victim, signal.SIGKILL)
    await deployment.logs(f"(pid {victim}) died: killed by SIGKILL")
    assert (await deployment.ask(client)).status == 200
    assert victim not in await deployment.well()
    for _ in range(10):
        assert (await deployment.ask()).status == 200


async def test_killed_while_serving_costs_what_it_had_in_hand(deployment: Deployment) -> None:
    victim, _ = await deployment.well()
    clients = 8
    async with deployment.traffic(clients) as traffic:
        await traffic.goes_on()
        os.kill(victim, signal.SIGKILL)
        await deployment.logs(f"(pid {victim}) died: killed by SIGKILL")
        await traffic.goes_on(100)
        assert victim not in await deployment.well()
        after_the_death = len(traffic.records)
        await traffic.goes_on(100)
        assert not [record for record in traffic.records[after_the_death:] if not record.ok]
    assert len(traffic.failed) <= clients
    in_hand = {"closed_before_reply", "reset", "truncated"}
    assert {record.failure for record in traffic.failed} <= in_hand


async def test_killed_while_streaming_breaks_its_own_streams_only(deployment: Deployment) -> None:
    deployment.provider.settings.change({"chunks": 60, "chunk_interval": 0.05})
    victim, other = await deployment.well()
    async with deployment.stream_from(victim) as broken, deployment.stream_from(other) as whole:
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(RequestError) as caught:
            await broken
        assert caught.value.kind in {"truncated", "reset"}
        assert (await whole)[-1] == b"[DONE]"


async def test_killed_while_booting_is_tried_again_and_costs_nothing(
    deployment: Deployment,
) -> None:
    first = set(await deployment.well())
    deployment.startup_fault("hang")
    async with deployment.traffic() as traffic:
        deployment.signal(signal.SIGHUP)
        (booting,) = await until(lambda: deployment.pids("booting"), "worker that boots")
        await deployment.logs("start-up fault 'hang'")
        deployment.startup_fault("")
        os.kill(booting, signal.SIGKILL)
        await deployment.logs("could not start: killed by SIGKILL")
        await until(lambda: not first & set(deployment.pids()), "end of the former workers")
        await traffic.goes_on()
    assert traffic.failed == []


async def test_killed_while_draining_breaks_the_stream_it_drained(deployment: Deployment) -> None:
    deployment.provider.settings.change(LONG_STREAM)
    victim, _ = await deployment.well()
    async with deployment.stream_from(victim) as stream, deployment.traffic() as traffic:
        deployment.signal(signal.SIGHUP)
        await until(lambda: victim in deployment.pids("draining"), "drain")
        # Each client has its last reply from the victim, which said so.
        await traffic.goes_on(40)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(RequestError):
            await stream
        await until(lambda: victim not in deployment.pids(), "end of the victim")
        await deployment.well()
        await traffic.goes_on()
    assert traffic.failed == []
    assert deployment.log().count(" ready after ") == 2, "one replacement each, none for a death"


async def test_an_exit_in_the_middle_of_a_request_costs_that_request(
    deployment: Deployment,
) -> None:
    outcome = await deployment.cause(sabotage.EXIT)
    assert isinstance(outcome, RequestError)
    # A reply whose log event it still held may have been lost with it: the line then says so.
    (pid,) = deployment.sabotaged("ends")
    await deployment.logs(f"(pid {pid}) died: exited with status 3;")
    async with deployment.traffic() as traffic:
        await deployment.well()
        await traffic.goes_on()
    assert traffic.failed == []


async def test_finalisers_that_run_while_context_variables_are_set_cost_nothing(
    deployment: Deployment,
) -> None:
    before = await deployment.well()
    async with deployment.traffic() as traffic:
        outcome = await deployment.cause(sabotage.COLLECT_GARBAGE, 200)
        assert not isinstance(outcome, RequestError)
        assert outcome.status == 200
        assert len(deployment.sabotaged("collects garbage")) == 1
        await traffic.goes_on()
    assert traffic.failed == []
    assert await deployment.well() == before


async def test_out_of_memory_costs_the_requests_of_that_worker_until_it_is_replaced(
    deployment: Deployment,
) -> None:
    """An address space limit, which the kernel enforces: malloc fails in the middle of Python.

    What was used up is kept, so whatever the worker does next may fail too.
    """
    outcome = await deployment.cause(sabotage.EXHAUST_MEMORY, 64)
    assert isinstance(outcome, RequestError) or outcome.status >= 500
    (suffering,) = deployment.sabotaged("exhausts its memory")
    await deployment.roll()
    assert not alive(suffering)
    async with deployment.traffic() as traffic:
        await traffic.goes_on(50)
    assert traffic.failed == []


async def test_a_worker_that_grows_is_replaced_before_it_runs_out(deployment: Deployment) -> None:
    async with deployment.traffic() as traffic:
        outcome = await deployment.cause(sabotage.HOARD, 1500)
        assert isinstance(outcome, Reply)
        assert outcome.status == 200
        await deployment.logs(" holds ")
        await deployment.logs(" drained after ")
        await deployment.well()
        await traffic.goes_on()
    assert traffic.failed == []


async def test_all_workers_killed_at_once_costs_what_they_had_in_hand(
    deployment: Deployment,
) -> None:
    """The listening socket is the supervisor's: clients wait instead of being refused."""
    clients = 4
    victims = await deployment.well()
    async with deployment.traffic(clients) as traffic:
        await traffic.goes_on()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        await asyncio.gather(*(deployment.logs(f"(pid {victim}) died") for victim in victims))
        await traffic.goes_on(50)
    assert len(traffic.failed) <= clients
    assert "connect_refused" not in {record.failure for record in traffic.failed}
