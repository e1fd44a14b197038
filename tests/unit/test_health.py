"""What probes are told, from the scoreboard alone."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import pytest

from litellm_resilience.status.health import (
    STILL_SUPERVISOR,
    STILL_WORKER,
    Health,
    not_live,
    not_ready,
)
from litellm_resilience.supervisor.policy import WorkerState
from litellm_resilience.supervisor.scoreboard import Scoreboard

NOW = 1000.0


def board(*states: WorkerState, still: float = 0.0) -> Scoreboard:
    """Return a board whose supervisor turns, and whose workers have not turned for a while."""
    found = Scoreboard.create(multiprocessing.get_context("spawn"), 4)
    found.totals.turned_at = NOW
    for state in states:
        row = found.row(found.claim())
        row.state = state
        row.ready_at, row.turned_at = NOW - 500, NOW - still
    return found


@pytest.mark.parametrize(
    ("still", "reasons"),
    [
        (0.0, []),
        (STILL_SUPERVISOR, []),
        (STILL_SUPERVISOR + 1, ["the supervisor has not turned for 11 s"]),
    ],
)
def test_a_supervisor_lives_that_turns(still: float, reasons: list[str]) -> None:
    assert not_live(board(), NOW + still) == reasons


@pytest.mark.parametrize(
    ("states", "reasons"),
    [
        ([WorkerState.SERVING], []),
        ([WorkerState.RETIRING, WorkerState.BOOTING], []),
        ([WorkerState.DRAINING, WorkerState.SERVING], []),
        ([], ["no worker serves, 0 of 0 workers are starting"]),
        (
            [WorkerState.BOOTING, WorkerState.DRAINING],
            ["no worker serves, 1 of 2 workers are starting"],
        ),
    ],
)
def test_one_worker_that_serves_is_enough(states: list[WorkerState], reasons: list[str]) -> None:
    assert not_ready(board(*states), NOW) == reasons


def test_workers_that_stand_still_do_not_serve() -> None:
    """One that turns is enough; one that was ready a moment ago has not turned yet."""
    still = board(WorkerState.SERVING, WorkerState.SERVING, still=STILL_WORKER + 1)
    assert not_ready(still, NOW) == [
        "the event loop of each of 2 workers has not turned for 6 s",
    ]
    still.row(1).turned_at, still.row(1).ready_at = 0.0, NOW - 1
    assert not_ready(still, NOW) == []


def test_who_is_about_to_end_is_not_ready() -> None:
    ending = board(WorkerState.SERVING)
    ending.totals.ending = 1
    assert not_ready(ending, NOW) == ["the proxy is about to end"]
    assert not_live(ending, NOW) == []


async def ask(application: Callable[..., Any], path: str) -> tuple[int, Any]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application({"type": "http", "path": path, "method": "GET"}, None, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def living() -> Scoreboard:
    """Return a board whose supervisor turns now, with a worker that serves."""
    found = board(WorkerState.SERVING)
    found.totals.turned_at = found.row(0).turned_at = time.monotonic()
    return found


async def test_probes_get_a_status_and_the_reasons() -> None:
    found = living()
    application = Health(found).beside()
    assert await ask(application, "/live") == (200, {"live": True, "reasons": []})
    assert await ask(application, "/ready") == (200, {"ready": True, "reasons": []})
    found.totals.ending = 1
    status, told = await ask(application, "/ready")
    assert (status, told["ready"]) == (503, False)
    assert told["reasons"] == ["the proxy is about to end"]


@pytest.mark.parametrize("path", ["/", "/drain", "/live/", "/metrics", "//live", "/status"])
async def test_nothing_else_is_there(path: str) -> None:
    """And no drain unless that was asked for."""
    assert await ask(Health(living()).beside(), path) == (404, {"paths": ["/live", "/ready"]})


async def test_a_drain_takes_the_proxy_out_before_it_begins() -> None:
    """At once and for all ports; who asks again, or hangs up, changes nothing."""
    begun: list[float] = []
    health = Health(living(), lambda: begun.append(0.0), 0.05)
    asked = asyncio.create_task(ask(health.beside(), "/drain"))
    hung_up = asyncio.create_task(ask(health.beside(), "/drain"))
    other = health.beside()
    while (await ask(other, "/ready"))[0] == 200:
        await asyncio.sleep(0)
    assert (await ask(other, "/ready"))[1]["reasons"] == ["a drain was asked for"]
    assert begun == []
    hung_up.cancel()
    assert await asked == (200, {"drain": True, "reasons": []})
    assert len(begun) == 1
    assert await ask(other, "/drain") == (200, {"drain": True, "reasons": []})
    assert len(begun) == 1
