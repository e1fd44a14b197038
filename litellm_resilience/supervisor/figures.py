"""What a worker writes about itself."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from uvicorn.server import ServerState

    from litellm_resilience.supervisor.scoreboard import Row

FIRST_REFUSAL, FIRST_ERROR = 400, 500
LAG_WINDOW = 10.0
"""Seconds for which a delay of the event loop is remembered."""


class SessionCounts(Protocol):
    """What the shared session of this process has been through."""

    generation: int
    recreated: int
    prevented_closes: int
    pool_waits: int


class Held(NamedTuple):
    """What a worker still has to do beside requests.

    Args:
        tasks: how many tasks its replies have left behind.
        records: how many records it holds, by the name of the sink that they are for.
    """

    tasks: int
    records: Mapping[str, int]


NOTHING_HELD = Held(0, {})


def nothing_held(besides: Collection[Any] | None) -> Held:
    """Say that there is nothing to do, whatever is served."""
    del besides
    return NOTHING_HELD


class Answering:
    """An ASGI application that notes how each HTTP request is answered.

    Args:
        app: the application.
        row: of this worker.
    """

    def __init__(self, app: Any, row: Row) -> None:
        self._app = app
        self._row = row

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        came = time.monotonic()

        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                answered = self._row.answered
                answered.seconds += time.monotonic() - came
                answered.errors += message["status"] >= FIRST_ERROR
                answered.refusals += FIRST_REFUSAL <= message["status"] < FIRST_ERROR
                answered.replies += 1
            await send(message)

        await self._app(scope, receive, noting)


class Figures:
    """Writes a worker's row, ten times a second.

    Args:
        row: claimed for this worker.
        tick: seconds between two turns of a loop that is not delayed.
    """

    def __init__(self, row: Row, tick: float) -> None:
        self._row = row
        self._tick = tick
        self._delays: deque[tuple[float, float]] = deque()

    def record(
        self, server: ServerState, session: SessionCounts, held: Held = NOTHING_HELD
    ) -> None:
        """Note that the event loop has turned just now.

        Args:
            server: what uvicorn knows of its connections and requests.
            session: what the shared session has been through so far.
            held: what there is to do beside requests.
        """
        self._row.hold(held.records)
        now = time.monotonic()
        self.turned(now, server.total_requests, len(server.tasks) + held.tasks, session)

    def turned(self, now: float, answered: int, in_flight: int, session: SessionCounts) -> None:
        """Note that the event loop has turned.

        Args:
            now: seconds of the monotonic clock.
            answered: requests so far.
            in_flight: requests that are being answered.
            session: what the shared session has been through so far.
        """
        row = self._row
        row.lag = self._longest_delay(now)
        row.in_flight = in_flight
        row.session_generation = session.generation
        row.counts.requests = row.before.requests + answered
        row.counts.sessions_recreated = row.before.sessions_recreated + session.recreated
        row.counts.closes_prevented = row.before.closes_prevented + session.prevented_closes
        row.counts.pool_waits = row.before.pool_waits + session.pool_waits
        row.turned_at = now

    def _longest_delay(self, now: float) -> float:
        """Return the longest delay in the window; a later, longer one makes earlier ones moot."""
        last = self._row.turned_at or now - self._tick
        delay = max(0.0, now - last - self._tick)
        while self._delays and self._delays[-1][1] <= delay:
            self._delays.pop()
        self._delays.append((now, delay))
        while self._delays[0][0] < now - LAG_WINDOW:
            self._delays.popleft()
        return self._delays[0][1]
