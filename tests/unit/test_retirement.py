"""Closing a session gracefully, with a real TCP server on the other side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from litellm_resilience.session.keeper import SessionKeeper
from litellm_resilience.session.retirement import Retirement

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Upstream:
    """A server whose replies wait for permission."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.release = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.waiting.set()
        await self.release.wait()
        return web.Response(text="late but whole")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    server = Upstream()
    app = web.Application()
    app.router.add_post("/", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield server
    server.release.set()
    await runner.cleanup()


async def fetch(session: aiohttp.ClientSession, url: str) -> str:
    async with session.post(url) as response:
        return await response.text()


async def test_requests_in_flight_survive_the_close(upstream: Upstream, until: Until) -> None:
    session = aiohttp.ClientSession()
    connector = session.connector
    assert connector is not None
    request = asyncio.create_task(fetch(session, upstream.url))
    await upstream.waiting.wait()
    retirement = Retirement(poll=0.01)
    await retirement.retire(session)
    assert session.closed
    assert not connector.closed
    upstream.release.set()
    assert await request == "late but whole"
    await until(lambda: connector.closed)


async def test_a_request_that_is_still_connecting_survives_the_close(
    upstream: Upstream, until: Until
) -> None:
    connecting, go_on = asyncio.Event(), asyncio.Event()

    async def pause(*_: object) -> None:
        connecting.set()
        await go_on.wait()

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(pause)
    session = aiohttp.ClientSession(trace_configs=[trace])
    connector = session.connector
    assert connector is not None
    request = asyncio.create_task(fetch(session, upstream.url))
    await connecting.wait()
    await Retirement(poll=0.01).retire(session)
    assert session.closed
    with pytest.raises(RuntimeError, match="closed"):
        await fetch(session, upstream.url)
    go_on.set()
    upstream.release.set()
    assert await request == "late but whole"
    await until(lambda: connector.closed)


async def test_an_idle_session_closes_at_once() -> None:
    session = aiohttp.ClientSession()
    connector = session.connector
    await Retirement().retire(session)
    assert session.closed
    assert connector is not None
    assert connector.closed


async def test_a_request_that_never_ends_is_cut_at_the_limit(
    upstream: Upstream, until: Until
) -> None:
    session = aiohttp.ClientSession()
    connector = session.connector
    assert connector is not None
    request = asyncio.create_task(fetch(session, upstream.url))
    await upstream.waiting.wait()
    await Retirement(limit=0.05, poll=0.01).retire(session)
    await until(lambda: connector.closed)
    with pytest.raises(aiohttp.ClientError):
        await request


async def test_aclose_closes_what_is_still_draining(upstream: Upstream) -> None:
    session = aiohttp.ClientSession()
    connector = session.connector
    assert connector is not None
    request = asyncio.create_task(fetch(session, upstream.url))
    await upstream.waiting.wait()
    retirement = Retirement()
    await retirement.retire(session)
    await retirement.aclose()
    assert connector.closed
    with pytest.raises(aiohttp.ClientError):
        await request


async def test_a_shared_session_closes_gracefully_when_anybody_calls_close(
    upstream: Upstream,
) -> None:
    class Slot:
        session: aiohttp.ClientSession | None = None

        def get(self) -> aiohttp.ClientSession | None:
            return self.session

        def put(self, session: aiohttp.ClientSession) -> None:
            self.session = session

        async def create(self) -> aiohttp.ClientSession | None:
            return aiohttp.ClientSession()

    slot = Slot()
    keeper = SessionKeeper(slot, logging.getLogger("test"))
    slot.session = session = aiohttp.ClientSession()
    keeper.start_up(session)
    request = asyncio.create_task(fetch(session, upstream.url))
    await upstream.waiting.wait()
    await session.close()
    assert session.closed
    replacement = await keeper.ensure()
    assert replacement is not session
    upstream.release.set()
    assert await request == "late but whole"
    await keeper.aclose()
    assert replacement is not None
    assert replacement.closed
