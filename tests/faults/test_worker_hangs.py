"""Workers that do nothing any more: noticed by their event loop, ended for good, replaced."""

from __future__ import annotations

import asyncio
import signal

import pytest

from litellm_resilience.demo.load import Reply, RequestError
from tests.support import sabotage
from tests.support.faulted import Deployment, StartDeployment, alive, until

HANG_SECONDS = 3
DRAIN_SECONDS = 3


@pytest.fixture(scope="module")
def shared(start_deployment: StartDeployment) -> Deployment:
    return start_deployment(
        "--worker_hang_timeout",
        str(HANG_SECONDS),
        "--worker_drain_timeout",
        str(DRAIN_SECONDS),
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [(sabotage.BLOCK_PYTHON, "blocks in Python"), (sabotage.BLOCK_C, "blocks in C")],
)
async def test_a_blocked_worker_is_replaced_and_the_other_serves_on(
    deployment: Deployment, fault: str, words: str
) -> None:
    """In C with the interpreter's lock held, so that no thread of the worker runs either."""
    hung = asyncio.create_task(deployment.cause(fault, 600))
    (victim,) = await until(lambda: deployment.sabotaged(words), words)
    (other,) = set(deployment.pids("serving")) - {victim}
    client = await deployment.connect_to(other)
    for _ in range(20):
        assert (await deployment.ask(client)).status == 200
    await client.close()
    await deployment.logs(f"(pid {victim}) died: killed because its event loop has not turned for")
    assert isinstance(await hung, RequestError)
    assert other in await deployment.well()
    async with deployment.traffic() as traffic:
        await traffic.goes_on(40)
    assert traffic.failed == []


async def test_a_worker_that_is_merely_busy_is_spared(deployment: Deployment) -> None:
    workers = await deployment.well()
    for fault in (sabotage.BLOCK_PYTHON, sabotage.BLOCK_C):
        outcome = await deployment.cause(fault, HANG_SECONDS - 2)
        assert isinstance(outcome, Reply)
        assert outcome.status == 200
    assert await deployment.well() == workers
    assert "died" not in deployment.log()


async def test_a_worker_that_ignores_sigterm_is_killed_after_the_drain_timeout(
    deployment: Deployment,
) -> None:
    """And one whose stream does not end is, too: both cost what they have in hand, no more."""
    deployment.provider.settings.change({"chunks": 6000, "chunk_interval": 0.05})
    first = await deployment.well()
    await deployment.cause(sabotage.IGNORE_SIGTERM)
    (victim,) = await until(lambda: deployment.sabotaged("ignores SIGTERM"), "deaf worker")
    assert victim in first
    async with deployment.stream_from(victim) as stream, deployment.traffic() as traffic:
        deployment.signal(signal.SIGHUP)
        with pytest.raises(RequestError):
            await stream
        await until(lambda: not any(alive(pid) for pid in first), "end of the former workers")
        await deployment.well()
        await traffic.goes_on()
    assert traffic.failed == []


async def test_every_worker_blocked_at_once_is_noticed(deployment: Deployment) -> None:
    """Clients wait in the queue of the supervisor's socket and are answered by the replacements."""
    workers = await deployment.well()
    hung: list[asyncio.Task[Reply | RequestError]] = []
    blocked: set[int] = set()
    while blocked != set(workers):
        hung.append(asyncio.create_task(deployment.cause(sabotage.BLOCK_PYTHON, 600)))
        count = len(hung)
        await deployment.logs("demo: blocks in Python", times=count)
        blocked = set(deployment.sabotaged("blocks in Python"))
    assert (await deployment.ask()).status == 200
    await asyncio.gather(*hung)
    assert not set(workers) & set(await deployment.well())
