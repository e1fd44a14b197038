"""Notice requests that wait for a free connection.

A pool that is too small shows as slow replies and nowhere else. aiohttp's tracing would tell, but
costs every request; its connector has one method that only a request without a connection calls
(aiohttp/connector.py, 3.10 and later). Where it is missing, nothing is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import ClientSession

WAIT_METHOD = "_wait_for_available_connection"


def watch(session: ClientSession, noticed: Callable[[], None]) -> None:
    """Call `noticed` for each request that waits for a connection of this session."""
    connector = session.connector
    wait = getattr(connector, WAIT_METHOD, None)
    if wait is None:
        return

    async def counted(*args: Any, **kwargs: Any) -> Any:
        noticed()
        return await wait(*args, **kwargs)

    setattr(connector, WAIT_METHOD, counted)


def unwatch(session: ClientSession) -> None:
    """Put the connector's own method back."""
    if session.connector is not None:
        vars(session.connector).pop(WAIT_METHOD, None)
