"""Which connections wait for their client, for how long, and how a drain ends them."""

from __future__ import annotations

import select
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

REQUEST_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
"""What a client is told whose request does not go on: it may send it again."""


class Waiting(Enum):
    """What a connection waits for."""

    REQUEST = "for a request"
    REST = "for the rest of a request"


def counting(protocol: type) -> type:
    """Return an HTTP protocol that counts how often something came from its client.

    Args:
        protocol: any of uvicorn's.
    """

    def data_received(self: Any, data: bytes) -> None:
        self.pieces += 1
        protocol.data_received(self, data)  # type: ignore[attr-defined]

    return type(protocol.__name__, (protocol,), {"pieces": 0, "data_received": data_received})


class Quiet:
    """Remembers since when connections have heard nothing from their clients."""

    def __init__(self) -> None:
        self._since: dict[tuple[Any, Waiting, Any], float] = {}

    def end(
        self, connections: Collection[Any], bounds: Mapping[Waiting, float], now: float
    ) -> None:
        """End the connections that have waited too long.

        One whose client has just sent something that has not been read yet is kept.

        Args:
            connections: all members of uvicorn's `ServerState.connections`.
            bounds: how many seconds one may wait.
            now: seconds of a monotonic clock.
        """
        since = {}
        for connection in connections:
            waiting = waits(connection)
            if waiting is not None:
                key = (connection, waiting, getattr(connection, "pieces", None))
                since[key] = self._since.get(key, now)
        self._since = since
        for (connection, waiting, _), began in since.items():
            if now - began >= bounds[waiting] and not _has_unread(connection):
                _end(connection, waiting)


def waits(connection: Any) -> Waiting | None:
    """Say what an HTTP/1.1 connection of uvicorn waits for from its client, if it does.

    Args:
        connection: a member of uvicorn's `ServerState.connections`. Of another protocol (WebSocket,
            HTTP/2) it never waits, and for the rest of a request only where that is counted.
    """
    if not hasattr(connection, "cycle"):
        return None
    cycle = connection.cycle
    if cycle is None or cycle.response_complete:
        if not _request_begun(connection, cycle):
            return Waiting.REQUEST
    elif cycle.response_started or not cycle.more_body or _is_our_turn(connection, cycle):
        return None
    return Waiting.REST if hasattr(connection, "pieces") else None


def _request_begun(connection: Any, cycle: Any) -> bool:
    """Say whether the first bytes of a request have come, but not all of its headers."""
    parser: Any = getattr(connection, "conn", None)
    if hasattr(parser, "trailing_data"):
        return bool(parser.trailing_data[0])
    scope = getattr(connection, "scope", None)
    return scope is not None and (cycle is None or cycle.scope is not scope)


def _is_our_turn(connection: Any, cycle: Any) -> bool:
    """Say whether the client waits for us: to read on, or to say that it may send the body."""
    return bool(connection.flow.read_paused or cycle.waiting_for_100_continue)


def _has_unread(connection: Any) -> bool:
    """Say whether something has come that the event loop has not read yet."""
    socket = connection.transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0 or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _end(connection: Any, waiting: Waiting) -> None:
    if waiting is Waiting.REQUEST:
        connection.shutdown()
    else:
        connection.transport.write(REQUEST_TIMEOUT)
        connection.transport.close()
