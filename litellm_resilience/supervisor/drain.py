"""A uvicorn server that announces its end and first answers every request.

uvicorn closes idle keep-alive connections at once, unannounced, so each client's next request
fails. Here every HTTP reply during the drain says `Connection: close`, and an idle connection is
kept for a while, for one last request.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from uvicorn.server import Server

from litellm_resilience.supervisor.figures import NOTHING_HELD, nothing_held
from litellm_resilience.supervisor.handshake import as_request
from litellm_resilience.supervisor.quiet import Quiet, Waiting, counting

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection

    from litellm_resilience.supervisor.figures import Held

CLOSE_HEADER = (b"connection", b"close")
KEEP_HEADER = b"keep-alive"
TICK = 0.1
"""Seconds between two looks, as in uvicorn's own loop."""
TICKS_PER_LOOK = 10
ACCEPT_GRACE = 0.3
"""Seconds in which a connection that was accepted just before may still appear."""
TLS_ACCEPT_GRACE = 2.0
"""The same where a connection appears only after its TLS handshake."""
HANDSHAKE_GRACE = 10.0
"""Seconds that a TLS handshake may take which is known to be under way."""
STOP_HANDSHAKE_GRACE = 2.0
"""The same when the whole server stops."""
IDLE_GRACE = 5.0
"""Seconds an idle connection is kept for one last request, unless it would be closed sooner anyway.

The keep-alive timeout may be minutes: load balancers want it to be longer than their own."""
STOP_IDLE_GRACE = 1.0
"""The same when the whole server stops."""
REST_GRACE = 30.0
"""Seconds in which something of a request must come that has begun to come."""
CANCEL_GRACE = 1
"""Seconds for what is cancelled at the end of the drain timeout to unwind."""


class DrainingServer(Server):
    """A uvicorn server with an announced drain.

    A drain begins when uvicorn would shut down. While the server is only being recycled it may
    take up to `drain_timeout`; once a signal asked it to stop, up to uvicorn's own
    `timeout_graceful_shutdown` if there is one.

    Attributes:
        drain_timeout: seconds.
        draining: whether the drain has begun.
        idle_grace, rest_grace: seconds, see above.
        arriving: connections that were accepted and are not made yet, as far as they are known.
        held: returns what there is to do beside the requests whose tasks it is given; without any,
            it does not look for tasks.
    """

    drain_timeout: float = 600.0
    draining: bool = False
    idle_grace: float = IDLE_GRACE
    rest_grace: float = REST_GRACE
    arriving: Collection[Any] = ()
    held: Callable[[Collection[Any] | None], Held] = staticmethod(nothing_held)
    _looked = NOTHING_HELD

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does; WebSocket handshakes count as requests."""
        protocol = self.config.ws_protocol_class
        if isinstance(protocol, type):
            self.config.ws_protocol_class = as_request(protocol)
        protocol = self.config.http_protocol_class
        if isinstance(protocol, type):
            self.config.http_protocol_class = counting(protocol)
        self._say_how_long_connections_are_kept()
        await super().startup(sockets=sockets)

    def _say_how_long_connections_are_kept(self) -> None:
        """Let clients that heed it, such as Node's, not use a connection that is about to close."""
        seconds = int(self.config.timeout_keep_alive)
        if seconds > 0:
            header = (KEEP_HEADER, f"timeout={seconds}".encode())
            self.config.encoded_headers = [*self.config.encoded_headers, header]

    def look(self, counter: int) -> Held:
        """Return what there is to do beside requests; tasks are looked for once a second only.

        Args:
            counter: of `on_tick`.
        """
        if self.draining or counter % TICKS_PER_LOOK == 0:
            self._looked = self.held(self.server_state.tasks)
            return self._looked
        return self.held(None)._replace(tasks=self._looked.tasks)

    async def on_tick(self, counter: int) -> bool:
        """Do what uvicorn does ten times a second; announce the end while draining."""
        ended = await super().on_tick(counter)
        if self.draining:
            self._announce()
        return ended

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then shut down as uvicorn does."""
        self.draining = True
        self._stop_accepting(sockets or [])
        self._forget_request_limit()
        self.config.encoded_headers = _without_keep_alive(self.config.encoded_headers)
        await self._drain()
        self.drained()
        if self.server_state.connections or self.server_state.tasks:
            self.config.timeout_graceful_shutdown = CANCEL_GRACE
        await super().shutdown(sockets=sockets)

    def drained(self) -> None:
        """Do what comes after the last reply, while all that has served it still lives."""

    def _stop_accepting(self, sockets: list[socket.socket]) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()

    def _forget_request_limit(self) -> None:
        """Keep `on_tick` from logging the limit again on every tick of the drain."""
        self.config.limit_max_requests = None
        self.__dict__.pop("limit_max_requests", None)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        state = self.server_state
        began = loop.time()
        settled = began + (TLS_ACCEPT_GRACE if self.config.is_ssl else ACCEPT_GRACE)
        arrived = began + HANDSHAKE_GRACE
        stop_asked = math.inf
        quiet = Quiet()
        counter = 0
        self._announce()
        while not self.force_exit:
            now = loop.time()
            if self.should_exit and now < stop_asked:
                stop_asked = now
                settled = min(settled, now + ACCEPT_GRACE)
                arrived = min(arrived, now + STOP_HANDSHAKE_GRACE)
                self._close_websockets()
            if now >= min(began + self.drain_timeout, stop_asked + self._stop_timeout):
                return
            awaited = self.arriving if now < arrived else ()
            if now >= settled and not (awaited or self._busy):
                return
            quiet.end(state.connections, self._bounds, now)
            await asyncio.sleep(TICK)
            counter += 1
            await self.on_tick(counter)

    @property
    def _busy(self) -> bool:
        state = self.server_state
        return bool(state.connections or state.tasks or self.held(state.tasks).tasks)

    def _close_websockets(self) -> None:
        """Tell WebSocket clients to come back, as uvicorn does when it stops."""
        protocol: Any = self.config.ws_protocol_class
        for connection in list(self.server_state.connections):
            if protocol is not None and isinstance(connection, protocol):
                connection.shutdown()

    @property
    def _bounds(self) -> dict[Waiting, float]:
        idle = STOP_IDLE_GRACE if self.should_exit else self.idle_grace
        return {
            Waiting.REQUEST: min(idle, self.config.timeout_keep_alive),
            Waiting.REST: self.rest_grace,
        }

    @property
    def _stop_timeout(self) -> float:
        timeout = self.config.timeout_graceful_shutdown
        return self.drain_timeout if timeout is None else timeout

    def _announce(self) -> None:
        """Let every reply that has not begun yet say that it is the last on its connection.

        A request keeps the list of headers that was current when it came; uvicorn makes a new one
        every second.
        """
        headers = self.server_state.default_headers
        if CLOSE_HEADER not in headers:
            headers[:] = [*_without_keep_alive(headers), CLOSE_HEADER]
        for connection in self.server_state.connections:
            announce(connection)


def announce(connection: Any) -> bool:
    """Let the reply that a connection waits for say that it is the last.

    Args:
        connection: a member of uvicorn's `ServerState.connections`.

    Returns:
        Whether it says so now; not if it has begun, if none is waited for, or if the connection is
        not an HTTP/1.1 one.
    """
    cycle = getattr(connection, "cycle", None)
    if cycle is None or cycle.response_started:
        return False
    if CLOSE_HEADER not in cycle.default_headers:
        cycle.default_headers = [*_without_keep_alive(cycle.default_headers), CLOSE_HEADER]
    return True


def announced(connection: Any) -> bool:
    """Say whether the reply that a connection waits for says that it is the last."""
    cycle: Any = getattr(connection, "cycle", None)
    pending = cycle is not None and not cycle.response_started
    return pending and CLOSE_HEADER in cycle.default_headers


def _without_keep_alive(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [header for header in headers if header[0] != KEEP_HEADER]
