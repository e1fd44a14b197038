"""Who may close the shared session, and how clients built on it carry on after its death.

Real handlers of the installed LiteLLM talk to a real TCP upstream.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from pytest_mock import MockerFixture

from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.session.keeper import SessionKeeper

DEADLINE = 30.0
MESSAGE = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}

Until = Callable[[Callable[[], bool]], Awaitable[None]]


def held_connections(session: aiohttp.ClientSession) -> int:
    connector = session.connector
    assert connector is not None
    return len(connector._acquired)


async def post(handler: Any, provider: ProviderThread, **options: Any) -> Any:
    return await handler.post(f"{provider.base_url}/chat/completions", json=MESSAGE, **options)


def transport_of(handler: Any) -> Any:
    return handler.client._transport


def connector_settings(handler: Any) -> tuple[object, ...]:
    connector = transport_of(handler).client.connector
    return connector.limit, connector.limit_per_host, connector._keepalive_timeout


@pytest.fixture
async def handler(shared: SimpleNamespace, session: aiohttp.ClientSession) -> AsyncIterator[Any]:
    """A LiteLLM handler built on the shared session."""
    built = shared.handler.AsyncHTTPHandler(shared_session=session, timeout=5.0)
    yield built
    await built.close()


async def test_a_closed_handler_leaves_the_shared_session_open(
    shared: SimpleNamespace, session: aiohttp.ClientSession, handler: Any
) -> None:
    await handler.close()
    assert not session.closed


async def test_a_dropped_handler_leaves_the_shared_session_open(
    shared: SimpleNamespace, session: aiohttp.ClientSession, keeper: SessionKeeper, until: Until
) -> None:
    handler = shared.handler.AsyncHTTPHandler(shared_session=session)
    owned = getattr(transport_of(handler), "_owns_session", True)
    del handler
    gc.collect()
    if owned:
        await until(lambda: keeper.counters.prevented_closes > 0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not session.closed


async def test_a_transport_that_believes_to_own_it_leaves_it_open(
    shared: SimpleNamespace, session: aiohttp.ClientSession, keeper: SessionKeeper
) -> None:
    """The default of a transport built by hand, on every version."""
    transport = shared.transport.LiteLLMAiohttpTransport(client=session)
    await transport.aclose()
    recycle = getattr(transport, "_close_recycled_session", None)
    if recycle is not None:
        recycle(session)
        del recycle
    expected = keeper.counters.prevented_closes
    del transport
    gc.collect()
    await asyncio.sleep(0)
    assert not session.closed
    assert expected >= 1


async def test_its_private_sessions_are_still_closed_by_their_transport(
    shared: SimpleNamespace, provider: ProviderThread
) -> None:
    handler = shared.handler.AsyncHTTPHandler(timeout=5.0)
    await post(handler, provider)
    private = transport_of(handler).client
    await handler.close()
    assert private.closed


async def test_use_on_another_loop_leaves_it_open(
    session: aiohttp.ClientSession, handler: Any, provider: ProviderThread, until: Until
) -> None:
    outcome: list[int] = []

    def elsewhere() -> None:
        async def use() -> None:
            outcome.append((await post(handler, provider)).status_code)

        asyncio.run(use())

    thread = threading.Thread(target=elsewhere, daemon=True)
    thread.start()
    await until(lambda: not thread.is_alive())
    assert outcome == [200]
    assert not session.closed
    assert (await post(handler, provider)).status_code == 200
    assert transport_of(handler).client is session


async def test_litellms_own_session_check_leaves_a_foreign_session_open(
    shared: SimpleNamespace, session: aiohttp.ClientSession, until: Until
) -> None:
    transport = shared.transport.LiteLLMAiohttpTransport(client=session)
    found: list[Any] = []

    def elsewhere() -> None:
        async def look() -> None:
            found.append(transport._get_valid_client_session())
            await found[0].close()

        asyncio.run(look())

    thread = threading.Thread(target=elsewhere, daemon=True)
    thread.start()
    await until(lambda: not thread.is_alive())
    await asyncio.sleep(0)
    assert found
    assert found[0] is not session
    assert not session.closed


async def test_a_cached_client_follows_the_shared_session(
    shared: SimpleNamespace, session: aiohttp.ClientSession, handler: Any, provider: ProviderThread
) -> None:
    for _ in range(3):
        await post(handler, provider)
        await shared.server.shared_aiohttp_session.close()
        await post(handler, provider)
        assert transport_of(handler).client is shared.server.shared_aiohttp_session
        assert not shared.server.shared_aiohttp_session.closed


async def test_requests_in_flight_survive_a_close(
    shared: SimpleNamespace,
    session: aiohttp.ClientSession,
    handler: Any,
    provider: ProviderThread,
    until: Until,
) -> None:
    provider.settings.delay = 0.3
    try:
        pending = [asyncio.create_task(post(handler, provider)) for _ in range(5)]
        await until(lambda: held_connections(session) == 5)
        await session.close()
        replies = await asyncio.gather(*pending)
    finally:
        provider.settings.delay = 0.0
    assert [reply.status_code for reply in replies] == [200] * 5


async def test_without_a_shared_session_a_client_serves_privately_and_comes_back(
    shared: SimpleNamespace,
    session: aiohttp.ClientSession,
    handler: Any,
    provider: ProviderThread,
    keeper: SessionKeeper,
    initialiser_name: str,
    mocker: MockerFixture,
) -> None:
    """The private session has LiteLLM's settings, and is closed once there is a shared one."""
    ordinary = shared.handler.AsyncHTTPHandler(timeout=5.0)
    await post(ordinary, provider)
    expected = connector_settings(ordinary)
    await ordinary.close()
    await session.close()
    failing = mocker.patch.object(
        shared.server, initialiser_name, new=mocker.AsyncMock(return_value=None)
    )
    assert (await post(handler, provider)).status_code == 200
    private = transport_of(handler).client
    assert not keeper.is_shared(private)
    assert connector_settings(handler) == expected
    mocker.stop(failing)
    mocker.patch.object(keeper, "_clock", return_value=keeper._clock() + 3600.0)
    assert (await post(handler, provider)).status_code == 200
    assert transport_of(handler).client is shared.server.shared_aiohttp_session
    assert private.closed


async def test_a_fault_of_the_keeper_never_fails_a_request(
    session: aiohttp.ClientSession,
    handler: Any,
    provider: ProviderThread,
    keeper: SessionKeeper,
    mocker: MockerFixture,
) -> None:
    mocker.patch.object(keeper, "current", side_effect=KeyError("unforeseen"))
    assert (await post(handler, provider)).status_code == 200


async def test_a_handler_with_a_session_of_its_own_keeps_it(
    shared: SimpleNamespace, session: aiohttp.ClientSession, provider: ProviderThread
) -> None:
    handler = shared.handler.AsyncHTTPHandler(timeout=5.0)
    await post(handler, provider)
    private = transport_of(handler).client
    await post(handler, provider)
    assert transport_of(handler).client is private
    assert private is not session
    await handler.close()


@pytest.fixture
def endless(provider: ProviderThread) -> Any:
    """The provider's streams are long and slow."""
    before = provider.settings.chunks, provider.settings.chunk_interval
    provider.settings.chunks, provider.settings.chunk_interval = 10_000, 0.01
    yield provider
    provider.settings.chunks, provider.settings.chunk_interval = before


async def open_stream(handler: Any, provider: ProviderThread, **options: Any) -> Any:
    return await handler.post(
        f"{provider.base_url}/chat/completions",
        json={**MESSAGE, "stream": True},
        stream=True,
        **options,
    )


async def test_a_closed_partly_read_stream_gives_its_connection_back(
    session: aiohttp.ClientSession, handler: Any, endless: ProviderThread, until: Until
) -> None:
    reply = await open_stream(handler, endless)
    async for _ in reply.aiter_bytes():
        break
    await reply.aclose()
    await until(lambda: held_connections(session) == 0)


async def test_a_cancelled_reader_gives_its_connection_back(
    session: aiohttp.ClientSession, handler: Any, endless: ProviderThread, until: Until
) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        reply = await open_stream(handler, endless)
        async for _ in reply.aiter_bytes():
            reading.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(reading.wait(), DEADLINE)
    assert held_connections(session) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: held_connections(session) == 0)


async def test_a_read_timeout_gives_the_connection_back(
    session: aiohttp.ClientSession, handler: Any, endless: ProviderThread, until: Until
) -> None:
    import httpx

    endless.settings.chunk_interval = 2.0
    reply = await open_stream(handler, endless, timeout=0.2)
    with pytest.raises(httpx.TimeoutException):
        await asyncio.wait_for(reply.aread(), DEADLINE)
    await until(lambda: held_connections(session) == 0)


async def test_a_reply_dropped_unread_gives_its_connection_back(
    session: aiohttp.ClientSession, handler: Any, endless: ProviderThread, until: Until
) -> None:
    reply = await open_stream(handler, endless)
    assert held_connections(session) == 1
    del reply
    gc.collect()
    await until(lambda: held_connections(session) == 0)


async def test_healthy_streams_reuse_their_connection(
    session: aiohttp.ClientSession, handler: Any, provider: ProviderThread
) -> None:
    before = provider.stats().connections_opened
    for _ in range(10):
        reply = await open_stream(handler, provider)
        assert b"[DONE]" in await reply.aread()
        await post(handler, provider)
    assert provider.stats().connections_opened - before == 1
