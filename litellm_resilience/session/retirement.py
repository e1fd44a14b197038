"""Close a session without cutting the requests that are still using it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from aiohttp import BaseConnector, ClientSession

POLL_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 600.0


def in_use(connector: BaseConnector) -> bool:
    """Say whether any connection of this connector is carrying a request.

    aiohttp has no public count, so its set of acquired connections is read where it exists;
    without it the answer is no, and a close is immediate, as in plain aiohttp.
    """
    return bool(getattr(connector, "_acquired", None))


async def close_now(session: ClientSession) -> None:
    """Close a session as aiohttp does, whatever its `close` attribute has been replaced by."""
    await type(session).close(session)


async def close_on_its_loop(session: ClientSession) -> None:
    """Close a session at once, on its own event loop if that is running in another thread."""
    loop = session._loop
    if loop.is_running() and loop is not asyncio.get_running_loop():
        asyncio.run_coroutine_threadsafe(close_now(session), loop)
    else:
        await close_now(session)


class RetiredConnector:
    """Stands in a closed session for a connector that still serves the requests in flight.

    aiohttp reads a session as closed when its connector is, and looks at the connector again while
    a request connects: detaching it (`ClientSession.detach`) would fail that request.

    Args:
        connector: what every other attribute is taken from.
    """

    closed = True

    def __init__(self, connector: BaseConnector) -> None:
        self._connector = connector

    def __getattr__(self, name: str) -> Any:
        """Return the connector's attribute."""
        return getattr(self._connector, name)


class Retirement:
    """Sessions that take no new request and close when their last one is over.

    Args:
        limit: seconds after which the connections are closed even if still in use.
        poll: seconds between two looks at a busy connector.
    """

    def __init__(self, *, limit: float = LONGEST_WAIT_SECONDS, poll: float = POLL_SECONDS) -> None:
        self._limit = limit
        self._poll = poll
        self._draining: dict[BaseConnector, asyncio.Task[None]] = {}

    async def retire(self, session: ClientSession) -> None:
        """Mark a session closed at once; close its connections when the last one is returned.

        Requests in flight keep their connections, also those that are still connecting.
        """
        connector = session.connector
        if (
            connector is None
            or not session.connector_owner
            or not in_use(connector)
            or session._loop is not asyncio.get_running_loop()
        ):
            await close_on_its_loop(session)
            return
        session._connector = cast("BaseConnector", RetiredConnector(connector))
        task = asyncio.get_running_loop().create_task(self._drain(connector))
        self._draining[connector] = task

    async def _drain(self, connector: BaseConnector) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limit
        # aiohttp tells nobody when a connection comes back.
        while in_use(connector) and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(self._poll)
        await connector.close()
        self._draining.pop(connector, None)

    async def aclose(self) -> None:
        """Close at once everything that is still draining."""
        draining, self._draining = self._draining, {}
        for connector, task in draining.items():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await connector.close()
