"""Signals that come at the wrong moment, and a supervisor that is killed."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.support.faulted import Deployment, StartDeployment, alive, until


@pytest.fixture(scope="module")
def shared(start_deployment: StartDeployment) -> Deployment:
    return start_deployment("--worker_drain_timeout", "30")


async def test_ten_hangups_at_once_replace_each_worker_once_more_at_most(
    deployment: Deployment,
) -> None:
    first = set(await deployment.well())
    async with deployment.traffic() as traffic:
        for _ in range(10):
            deployment.signal(signal.SIGHUP)
        await until(lambda: not first & set(deployment.pids()), "end of the former workers")
        await deployment.well()
        await traffic.goes_on()
    assert traffic.failed == []
    assert 2 <= deployment.log().count(" ready after ") <= 4


async def test_a_hangup_during_a_roll_replaces_the_replacements_too(
    deployment: Deployment,
) -> None:
    """They may have read the configuration before it was changed for the second time."""
    first = set(await deployment.well())
    async with deployment.traffic() as traffic:
        deployment.signal(signal.SIGHUP)
        early = await until(lambda: set(deployment.pids()) - first, "replacement")
        deployment.signal(signal.SIGHUP)
        await until(lambda: not (first | early) & set(deployment.pids()), "end of both generations")
        await deployment.well()
        await traffic.goes_on()
    assert traffic.failed == []


async def test_the_end_during_a_roll_answers_what_is_under_way_and_leaves_nothing(
    start_deployment: StartDeployment,
) -> None:
    deployment = start_deployment("--worker_drain_timeout", "30")
    victim, _ = await deployment.well()
    processes = deployment.proxy.processes()
    deployment.provider.settings.change({"chunks": 40, "chunk_interval": 0.05})
    async with deployment.stream_from(victim) as stream:
        deployment.signal(signal.SIGHUP)
        await until(lambda: victim in deployment.pids("draining"), "drain")
        processes += deployment.proxy.processes()
        deployment.signal(signal.SIGTERM)
        assert (await stream)[-1] == b"[DONE]"
    await until(lambda: deployment.proxy.exit_status() is not None, "end")
    assert deployment.proxy.exit_status() == 0
    await until(lambda: not any(alive(pid) for pid in processes), "end of all processes")


async def test_a_taken_port_ends_the_command_before_it_serves(
    start_deployment: StartDeployment, deployment: Deployment
) -> None:
    """And leaves the one that has it alone."""
    second = start_deployment(port=deployment.proxy.port, ready=False)
    async with deployment.traffic() as traffic:
        await until(lambda: second.proxy.exit_status() is not None, "end")
        await traffic.goes_on()
    assert traffic.failed == []
    assert second.proxy.exit_status() not in {0, None}
    assert "ddress already in use" in second.proxy.log_text()


async def test_workers_finish_and_end_when_the_supervisor_is_killed(
    start_deployment: StartDeployment, deployment: Deployment
) -> None:
    """Nobody could replace them; the port must be free for whoever starts the service anew.

    The last test of the module: its proxy is gone.
    """
    deployment.provider.settings.change({"chunks": 40, "chunk_interval": 0.05})
    victim, other = await deployment.well()
    processes = deployment.proxy.processes()
    async with deployment.stream_from(victim) as first, deployment.stream_from(other) as second:
        os.kill(deployment.proxy.pid, signal.SIGKILL)
        streams = await asyncio.gather(first, second)
    assert [events[-1] for events in streams] == [b"[DONE]", b"[DONE]"]
    await until(lambda: not any(alive(pid) for pid in processes), "end of all processes")
    anew = start_deployment(port=deployment.proxy.port)
    assert (await anew.ask()).status == 200
