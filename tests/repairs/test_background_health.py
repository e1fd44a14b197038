"""LiteLLM's own loop of health checks in workers of one supervisor, run one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

import litellm_resilience
from litellm_resilience.repairs import background_health
from litellm_resilience.repairs.base import PatchState
from litellm_resilience.supervisor import note as notes
from litellm_resilience.supervisor import scoreboard
from litellm_resilience.supervisor.note import Note
from litellm_resilience.supervisor.scoreboard import Scoreboard

INTERVAL = 300
DEPLOYMENTS = [
    {
        "model_name": name,
        "litellm_params": {
            "model": f"openai/{name}",
            "api_key": "sk-secret",
            "api_base": "http://a",
        },
        "model_info": {"id": f"id-{name}"},
    }
    for name in ("one", "two", "three")
]

Worker = Callable[[], contextlib.AbstractAsyncContextManager[None]]
Until = Callable[[Callable[[], bool]], Any]


class Probes:
    """What is asked of deployments: LiteLLM's function for one of them."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False

    async def __call__(self, *_: Any, **__: Any) -> dict[str, Any]:
        self.count += 1
        await asyncio.sleep(0)
        if self.fails:
            raise RuntimeError("unreachable")
        return {"x-ratelimit-remaining-requests": "7"}


@pytest.fixture
def board(mocker: MockerFixture) -> Scoreboard:
    """The scoreboard of a supervisor whose worker this process is."""
    board = Scoreboard.create(multiprocessing.get_context("fork"), 2)
    mocker.patch.object(scoreboard, "_entered", (board, board.claim()))
    mocker.patch.object(notes, "SETTLING_SECONDS", 0)
    mocker.patch.object(background_health, "POLL_SECONDS", 0.001)
    return board


@pytest.fixture
def probes(mocker: MockerFixture) -> Probes:
    import litellm

    return mocker.patch.object(litellm, "ahealth_check", Probes())


@pytest.fixture
def server(patched: SimpleNamespace, mocker: MockerFixture) -> Any:
    """LiteLLM's proxy as a worker has it when it begins its health checks."""
    server = patched.server
    mocker.patch.object(server, "health_check_interval", INTERVAL)
    mocker.patch.object(server, "llm_model_list", DEPLOYMENTS)
    mocker.patch.object(server, "health_check_results", {})
    return server


@pytest.fixture
def worker(server: Any) -> Worker:
    """Run LiteLLM's loop as one worker does, from nothing, until the block ends."""

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        server.health_check_results.clear()
        loop = asyncio.create_task(server._run_background_health_check())
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    return running


def found(server: Any) -> tuple[int, int] | None:
    results = server.health_check_results
    if "unhealthy_count" not in results:
        return None
    return results["healthy_count"], results["unhealthy_count"]


async def test_a_replacement_probes_nothing_and_has_the_results(
    board: Scoreboard, probes: Probes, server: Any, worker: Worker, until: Until
) -> None:
    async with worker():
        await until(lambda: found(server) == (3, 0))
        first = dict(server.health_check_results)
    assert probes.count == len(DEPLOYMENTS)
    for _ in range(3):
        async with worker():
            await until(lambda: found(server) == (3, 0))
            assert server.health_check_results == json.loads(json.dumps(first))
    assert probes.count == len(DEPLOYMENTS)


async def test_failures_are_inherited_too(
    board: Scoreboard, probes: Probes, server: Any, worker: Worker, until: Until
) -> None:
    probes.fails = True
    for _ in range(2):
        async with worker():
            await until(lambda: found(server) == (0, 3))
    assert probes.count == len(DEPLOYMENTS)


async def test_workers_that_begin_together_probe_once(
    board: Scoreboard, probes: Probes, server: Any, worker: Worker, until: Until
) -> None:
    loops = [asyncio.create_task(server.perform_health_check(DEPLOYMENTS)) for _ in range(4)]
    results = await asyncio.gather(*loops)
    assert probes.count == len(DEPLOYMENTS)
    assert [len(result[0]) for result in results] == [3] * 4
    assert len({len(result) for result in results}) == 1


async def test_results_that_are_due_are_probed_again(
    board: Scoreboard, probes: Probes, server: Any, worker: Worker, until: Until
) -> None:
    async with worker():
        await until(lambda: found(server) == (3, 0))
    age(board.note, INTERVAL)
    async with worker():
        await until(lambda: found(server) == (3, 0))
    assert probes.count == 2 * len(DEPLOYMENTS)


async def test_a_replacement_probes_when_the_inherited_results_are_due(
    board: Scoreboard, probes: Probes, server: Any, worker: Worker, until: Until
) -> None:
    async with worker():
        await until(lambda: found(server) == (3, 0))
    age(board.note, INTERVAL - 0.1)
    async with worker():
        await until(lambda: probes.count == 2 * len(DEPLOYMENTS))


async def test_a_deployment_that_was_not_probed_is_not_taken_for_healthy(
    board: Scoreboard,
    probes: Probes,
    server: Any,
    worker: Worker,
    until: Until,
    mocker: MockerFixture,
) -> None:
    mocker.patch.object(server, "llm_model_list", DEPLOYMENTS[:2])
    async with worker():
        await until(lambda: found(server) == (2, 0))
    mocker.patch.object(server, "llm_model_list", DEPLOYMENTS)
    async with worker():
        await until(lambda: found(server) == (3, 0))
    assert probes.count == 5


async def test_results_too_large_to_share_are_probed_by_each_and_said_once(
    board: Scoreboard,
    probes: Probes,
    server: Any,
    worker: Worker,
    until: Until,
    mocker: MockerFixture,
) -> None:
    mocker.patch.object(notes, "CAPACITY", 10)
    warning = mocker.spy(litellm_logger(), "warning")
    for _ in range(2):
        async with worker():
            await until(lambda: found(server) == (3, 0))
    assert probes.count == 2 * len(DEPLOYMENTS)
    ours = [call for call in warning.call_args_list if "too large" in call.args[0]]
    assert len(ours) == 1


async def test_without_a_supervisor_each_worker_probes(
    probes: Probes, server: Any, worker: Worker, until: Until
) -> None:
    for _ in range(2):
        async with worker():
            await until(lambda: found(server) == (3, 0))
    assert probes.count == 2 * len(DEPLOYMENTS)


@pytest.mark.parametrize("interval", [None, 0, -1, "300"])
async def test_an_interval_that_litellm_ignores_is_ignored(
    interval: Any, board: Scoreboard, probes: Probes, server: Any, mocker: MockerFixture
) -> None:
    await server.perform_health_check(DEPLOYMENTS)
    mocker.patch.object(server, "health_check_interval", interval)
    await asyncio.wait_for(server._run_background_health_check(), 5)
    assert probes.count == len(DEPLOYMENTS)
    assert server.health_check_results == {}


async def test_no_secret_is_shared(
    board: Scoreboard, probes: Probes, server: Any, worker: Worker, until: Until
) -> None:
    async with worker():
        await until(lambda: found(server) == (3, 0))
    written = board.note.read()
    assert written is not None
    assert b"id-one" in written[1]
    assert b"sk-secret" not in written[1]


def test_a_loop_that_probes_in_another_way_is_left_alone(
    litellm_modules: SimpleNamespace, mocker: MockerFixture
) -> None:
    async def another() -> None: ...

    litellm_resilience.uninstall()
    mocker.patch.object(litellm_modules.server, background_health.LOOP, another)
    outcome = litellm_resilience.install()["background-health"]
    litellm_resilience.uninstall()
    assert outcome.state is PatchState.INCOMPATIBLE
    assert "does not call" in outcome.reason


def litellm_logger() -> Any:
    from litellm._logging import verbose_proxy_logger

    return verbose_proxy_logger


def age(note: Note, seconds: float) -> None:
    """Let the text have been written that much earlier."""
    written = note.read()
    assert written is not None
    note.checksum = notes._checksum(written[0] - seconds, written[1])
    note.written_at = written[0] - seconds
