"""Whether the proxy lives and is ready, as the scoreboard tells: no worker is asked."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.policy import SERVING, WorkerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litellm_resilience.supervisor.scoreboard import Row, Scoreboard

    Application = Callable[[Any, Any, Any], Awaitable[None]]

STILL_SUPERVISOR = 10.0
"""Seconds without a turn after which a supervisor, which turns twice a second, is not alive."""
STILL_WORKER = 5.0
"""Seconds without a turn of its event loop after which a worker does not count as serving."""


def not_live(board: Scoreboard, now: float) -> list[str]:
    """Return why the supervisor is not alive; nothing if it is.

    Args:
        board: where it writes that it turns.
        now: seconds of the monotonic clock.
    """
    still = now - board.totals.turned_at
    if still > STILL_SUPERVISOR:
        return [f"the supervisor has not turned for {still:.0f} s"]
    return []


def not_ready(board: Scoreboard, now: float) -> list[str]:
    """Return why new requests should go elsewhere; nothing if a worker serves.

    Args:
        board: where supervisor and workers write.
        now: seconds of the monotonic clock.
    """
    reasons = ["the proxy is about to end"] if board.totals.ending else []
    rows = [row for _, row in board.living()]
    serving = [row for row in rows if row.state in SERVING]
    if not serving:
        booting = sum(row.state is WorkerState.BOOTING for row in rows)
        reasons.append(f"no worker serves, {booting} of {len(rows)} workers are starting")
    elif all(_still(row, now) > STILL_WORKER for row in serving):
        shortest = min(_still(row, now) for row in serving)
        reasons.append(
            f"the event loop of each of {len(serving)} workers has not turned for {shortest:.0f} s"
        )
    return reasons


def _still(row: Row, now: float) -> float:
    return now - max(row.turned_at, row.ready_at)


class Health:
    """Answers probes of orchestrators and load balancers.

    Args:
        board: where supervisor and workers write.
        drain: asks the supervisor to drain; None if nobody may.
        drain_delay: seconds between a request for `/drain` and the drain.
    """

    def __init__(
        self,
        board: Scoreboard,
        drain: Callable[[], None] | None = None,
        drain_delay: float = 0.0,
    ) -> None:
        self._board = board
        self._drain = drain
        self._drain_delay = drain_delay
        self._draining: asyncio.Task[None] | None = None

    def beside(self, other: Application | None = None) -> Application:
        """Return an ASGI application.

        Args:
            other: answers what is no probe; None for nobody.
        """

        async def application(scope: Any, receive: Any, send: Any) -> None:
            if answer := await self._answer(scope.get("path")):
                await _reply(send, *answer)
            elif other is not None:
                await other(scope, receive, send)
            else:
                await _reply(send, 404, {"paths": ["/live", "/ready"]})

        return application

    async def _answer(self, path: str | None) -> tuple[int, dict[str, Any]] | None:
        if path == "/live":
            return _state("live", not_live(self._board, time.monotonic()))
        if path == "/ready":
            return _state("ready", self._not_ready())
        if path == "/drain" and self._drain is not None:
            await self._drain_later(self._drain)
            return _state("drain", [])
        return None

    def _not_ready(self) -> list[str]:
        asked = ["a drain was asked for"] if self._draining is not None else []
        return asked + not_ready(self._board, time.monotonic())

    async def _drain_later(self, drain: Callable[[], None]) -> None:
        """Wait for the drain to begin, which whoever hangs up does not stop."""

        async def wait() -> None:
            await asyncio.sleep(self._drain_delay)
            drain()

        if self._draining is None:
            self._draining = asyncio.create_task(wait())
        await asyncio.shield(self._draining)


def _state(what: str, reasons: list[str]) -> tuple[int, dict[str, Any]]:
    return 503 if reasons else 200, {what: not reasons, "reasons": reasons}


async def _reply(send: Any, status: int, told: dict[str, Any]) -> None:
    body = json.dumps(told).encode() + b"\n"
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
