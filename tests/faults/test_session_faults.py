"""A shared session that is closed, or cannot be made, costs no request and leaks nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from litellm_resilience.demo.proxy import chat
from tests.support import sabotage
from tests.support.faulted import (
    ATTACHED,
    CHAT,
    HAS_SHARED_SESSION,
    MODELS,
    Deployment,
    StartDeployment,
    descriptors,
    until,
)

pytestmark = pytest.mark.skipif(not HAS_SHARED_SESSION, reason="this LiteLLM has no shared session")

CLIENTS = 8
CLOSES = 1000
CLOSED = "demo: closed shared session"
RECREATED = "SESSION REUSE: Recreated"
ATTEMPT = "SESSION REUSE: Shared aiohttp session is closed"
FAILED = "SESSION REUSE: Failed to recreate"
WITHOUT = "SESSION REUSE: No shared session"


@pytest.fixture(scope="module")
def shared(start_deployment: StartDeployment) -> Deployment:
    return start_deployment(workers=1)


def by_turns(number: int) -> dict[str, Any]:
    return chat(MODELS[number % len(MODELS)])


def closing_at_each(number: int) -> dict[str, Any]:
    return {**by_turns(number), "user": sabotage.CLOSE_SHARED_SESSION}


def recreated(deployment: Deployment) -> int:
    count: int = deployment.worker["sessions_recreated"]
    return count


def connections_ended(deployment: Deployment) -> Callable[[], bool]:
    """Say whether the provider has no more connections than one session keeps for the load."""
    return lambda: deployment.provider.stats().connections_open <= CLIENTS + 4


async def assert_pooled(deployment: Deployment) -> None:
    """Each request has the one session again, and few connections are opened for them.

    Newer LiteLLM asks the provider for its models now and then, over connections of its own.
    """
    deployment.mark()
    opened = deployment.provider.stats().connections_opened
    async with deployment.traffic(2, body=by_turns) as traffic:
        await traffic.goes_on(30)
    assert traffic.failed == []
    assert deployment.log().count(ATTACHED) == traffic.report.requests
    assert deployment.provider.stats().connections_opened - opened <= 4


async def test_closed_a_thousand_times_under_load(deployment: Deployment) -> None:
    """Each close is followed by one recreation, and by nothing that stays."""
    (pid,) = await deployment.well()
    deployment.provider.settings.change({"delay": 0.3})
    async with deployment.traffic(CLIENTS, body=by_turns, think_time=0.1) as traffic:
        await traffic.goes_on()
        held, before = descriptors(pid), recreated(deployment)
        await deployment.cause(sabotage.CLOSE_SHARED_SESSION, CLOSES)
        await until(lambda: recreated(deployment) - before == CLOSES, f"{CLOSES} recreations")
        await traffic.goes_on()
    assert traffic.failed == []
    assert recreated(deployment) - before == CLOSES
    assert deployment.log().count(CLOSED) == deployment.log().count(RECREATED) == CLOSES
    await until(connections_ended(deployment), "end of the sessions' connections")
    await until(lambda: descriptors(pid) <= held + CLIENTS, "end of their descriptors")
    assert "Unclosed" not in deployment.log()
    await assert_pooled(deployment)


async def test_a_session_that_cannot_be_made_is_tried_again_with_pauses(
    deployment: Deployment,
) -> None:
    """Tried at once and after 1 s, both in vain, and after 2 s more; requests go on unpooled."""
    async with deployment.traffic(body=by_turns) as traffic:
        await deployment.cause(sabotage.FAIL_SESSIONS, 2.8)
        await deployment.cause(sabotage.CLOSE_SHARED_SESSION)
        await deployment.logs(FAILED, 2)
        await traffic.goes_on(50)
        await deployment.logs(RECREATED)
        await traffic.goes_on(50)
    assert traffic.failed == []
    log = deployment.log()
    assert log.count(WITHOUT) > 5 * log.count(ATTEMPT), "far more requests than attempts"
    assert log.count("demo: no shared session was made") == log.count(FAILED) == 2
    assert log.count(ATTEMPT) == 3
    assert log.count(RECREATED) == 1
    await until(connections_ended(deployment), "end of the unpooled connections")
    await assert_pooled(deployment)


async def test_clients_that_hang_up_while_the_session_is_made_do_not_stop_it(
    deployment: Deployment,
) -> None:
    """Also the one for whom it is being made."""
    hanging_up = 50

    async def request(number: int, **extra: Any) -> None:
        async with deployment.client() as client:
            await client.request("POST", CHAT, {**by_turns(number), **extra})

    await deployment.cause(sabotage.SLOW_SESSIONS, 4)
    try:
        tasks = [asyncio.create_task(request(0, user=sabotage.CLOSE_SHARED_SESSION))]
        await deployment.logs(ATTEMPT)
        tasks += [
            asyncio.create_task(request(number, stream=number % 4 < len(MODELS)))
            for number in range(hanging_up)
        ]
        await until(lambda: deployment.worker["in_flight"] == len(tasks), "requests in flight")
        assert RECREATED not in deployment.log()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (await deployment.ask()).status == 200
    finally:
        await deployment.cause(sabotage.SLOW_SESSIONS, 0)
    assert deployment.log().count(RECREATED) == 1
    await until(lambda: deployment.worker["in_flight"] == 0, "end of the requests given up")
    await assert_pooled(deployment)


async def test_a_roll_while_the_session_is_closed_over_and_over_costs_nothing(
    deployment: Deployment,
) -> None:
    async with deployment.traffic(body=closing_at_each) as traffic:
        for _ in range(2):
            closes = deployment.log().count(CLOSED)
            await deployment.roll()
            await traffic.goes_on()
            assert deployment.log().count(CLOSED) > closes
    assert traffic.failed == []
    assert "Unclosed" not in deployment.log()
    await assert_pooled(deployment)
