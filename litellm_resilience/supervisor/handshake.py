"""What uvicorn's WebSocket protocols are told of their server."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn.server import ServerState


def as_request(protocol: type) -> type:
    """Return a WebSocket protocol whose handshakes count as requests and announce no end.

    uvicorn counts HTTP requests only. A protocol reads the server's default headers when a
    handshake begins, and some add to its reply what the list holds then; strict clients refuse a
    `Connection: close` beside `Connection: Upgrade`.

    Args:
        protocol: any of uvicorn's.
    """

    def begin(self: Any, config: Any, server_state: ServerState, **others: Any) -> None:
        server_state.total_requests += 1
        seen = copy(server_state)
        seen.default_headers = [
            header for header in seen.default_headers if header[0] != b"connection"
        ]
        protocol.__init__(self, config=config, server_state=seen, **others)  # type: ignore[misc]

    return type(protocol.__name__, (protocol,), {"__init__": begin})
