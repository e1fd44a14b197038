"""Requests that wait for a free connection, with a real connector and a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from litellm_resilience.session import pool


@pytest.fixture
async def slow_server() -> AsyncIterator[tuple[str, int]]:
    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response(text="ok")

    application = web.Application()
    application.router.add_get("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0]
    await runner.cleanup()


async def get(session: aiohttp.ClientSession, address: tuple[str, int]) -> None:
    async with session.get(f"http://{address[0]}:{address[1]}/") as reply:
        assert await reply.text() == "ok"


async def test_only_requests_that_wait_are_counted(slow_server: tuple[str, int]) -> None:
    noticed = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2)) as session:
        pool.watch(session, lambda: noticed.append(1))
        await asyncio.gather(*(get(session, slow_server) for _ in range(2)))
        assert not noticed
        await asyncio.gather(*(get(session, slow_server) for _ in range(5)))
        assert len(noticed) == 3


async def test_a_session_that_is_not_watched_any_more_counts_nothing(
    slow_server: tuple[str, int],
) -> None:
    noticed = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        pool.watch(session, lambda: noticed.append(1))
        pool.unwatch(session)
        await asyncio.gather(*(get(session, slow_server) for _ in range(3)))
    assert not noticed


async def test_a_connector_that_cannot_be_watched_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An older aiohttp."""
    monkeypatch.delattr(aiohttp.BaseConnector, pool.WAIT_METHOD)
    async with aiohttp.ClientSession() as session:
        pool.watch(session, lambda: None)
        pool.unwatch(session)
        assert not hasattr(session.connector, pool.WAIT_METHOD)


async def test_a_closed_session_fails_as_ever(slow_server: tuple[str, int]) -> None:
    session = aiohttp.ClientSession()
    await session.close()
    noticed: list[int] = []
    pool.watch(session, lambda: noticed.append(1))
    with pytest.raises(RuntimeError, match="closed"):
        await get(session, slow_server)
    pool.unwatch(session)
    assert noticed == []
