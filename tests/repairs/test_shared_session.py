"""`add_shared_session_to_data`, replaced, on the installed LiteLLM."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import re
import warnings
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from pytest_mock import MockerFixture

import litellm_resilience
from litellm_resilience.session.keeper import SessionKeeper


async def attach(modules: SimpleNamespace) -> dict[str, Any]:
    data: dict[str, Any] = {}
    await modules.route.add_shared_session_to_data(data)
    return data


async def test_the_reported_fault_is_gone(
    shared: SimpleNamespace, session: aiohttp.ClientSession
) -> None:
    """LiteLLM #23806: initialise, close, attach."""
    await session.close()
    data = await attach(shared)
    assert "shared_session" in data
    assert data["shared_session"].closed is False
    assert data["shared_session"] is shared.server.shared_aiohttp_session


async def test_an_open_session_is_attached_as_it_is(
    shared: SimpleNamespace, session: aiohttp.ClientSession
) -> None:
    assert (await attach(shared))["shared_session"] is session


async def test_it_is_a_coroutine_function_on_every_version(shared: SimpleNamespace) -> None:
    assert inspect.iscoroutinefunction(shared.route.add_shared_session_to_data)


async def test_a_caller_that_does_not_await_gets_the_open_session_without_a_warning(
    native_is_synchronous: bool, shared: SimpleNamespace, session: aiohttp.ClientSession
) -> None:
    """How `route_request` calls it up to LiteLLM 1.82.4."""
    if not native_is_synchronous:
        pytest.skip("this LiteLLM awaits it")
    data: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared.route.add_shared_session_to_data(data)
        await session.close()
        shared.route.add_shared_session_to_data({})
        gc.collect()
    assert data["shared_session"] is session


def test_a_synchronous_caller_without_a_loop_is_served(
    native_is_synchronous: bool, shared: SimpleNamespace, mocker: MockerFixture
) -> None:
    """As in LiteLLM's own tests up to 1.82.4."""
    if not native_is_synchronous:
        pytest.skip("this LiteLLM awaits it")
    data: dict[str, Any] = {}
    session = mocker.patch.object(shared.server, "shared_aiohttp_session")
    session.closed = False
    shared.route.add_shared_session_to_data(data)
    assert data["shared_session"] is session
    session.closed = True
    closed: dict[str, Any] = {}
    shared.route.add_shared_session_to_data(closed)
    assert closed == {}


async def test_route_request_finds_a_healed_session(
    shared: SimpleNamespace, session: aiohttp.ClientSession
) -> None:
    await session.close()
    data: dict[str, Any] = {"model": "no-such-model", "messages": []}
    with pytest.raises(Exception, match=r"(?s)."):
        await (
            await shared.route.route_request(
                data=data, llm_router=None, user_model=None, route_type="acompletion"
            )
        )
    assert data["shared_session"] is shared.server.shared_aiohttp_session
    assert not data["shared_session"].closed


async def test_concurrent_requests_cause_one_creation(
    shared: SimpleNamespace,
    session: aiohttp.ClientSession,
    initialiser_name: str,
    mocker: MockerFixture,
) -> None:
    await session.close()
    create = mocker.spy(shared.server, initialiser_name)
    attached = await asyncio.gather(*(attach(shared) for _ in range(100)))
    assert create.call_count == 1
    assert {id(data["shared_session"]) for data in attached} == {
        id(shared.server.shared_aiohttp_session)
    }
    assert litellm_resilience.stats().recreated == 1


@pytest.mark.parametrize("failure", [None, RuntimeError("no sockets left")])
async def test_failing_creation_never_fails_the_request(
    shared: SimpleNamespace,
    session: aiohttp.ClientSession,
    initialiser_name: str,
    mocker: MockerFixture,
    failure: Exception | None,
) -> None:
    await session.close()
    create = mocker.patch.object(
        shared.server,
        initialiser_name,
        new=mocker.AsyncMock(return_value=None, side_effect=failure),
    )
    for _ in range(20):
        assert "shared_session" not in await attach(shared)
    assert create.call_count == 1


async def test_a_session_that_never_was_is_not_invented(shared: SimpleNamespace) -> None:
    shared.server.shared_aiohttp_session = None
    assert await attach(shared) == {}


async def test_a_creation_that_failed_at_start_up_is_retried_later(
    shared: SimpleNamespace,
    initialiser_name: str,
    keeper: SessionKeeper,
    mocker: MockerFixture,
) -> None:
    """LiteLLM's initialiser swallows the error and returns None; its own recovery gives up."""
    connector = mocker.patch("aiohttp.TCPConnector", side_effect=OSError("too many open files"))
    shared.server.shared_aiohttp_session = await getattr(shared.server, initialiser_name)()
    assert shared.server.shared_aiohttp_session is None
    assert "shared_session" not in await attach(shared)
    mocker.stop(connector)
    clock = mocker.patch.object(keeper, "_clock", return_value=keeper._clock() + 3600.0)
    data = await attach(shared)
    assert clock.called
    assert data["shared_session"].closed is False
    await keeper.aclose()


def test_a_session_of_another_loop_is_replaced(
    shared: SimpleNamespace, initialiser_name: str, keeper: SessionKeeper
) -> None:
    async def start() -> None:
        shared.server.shared_aiohttp_session = await getattr(shared.server, initialiser_name)()

    async def use() -> None:
        first = shared.server.shared_aiohttp_session
        data = await attach(shared)
        assert data["shared_session"] is not first
        assert data["shared_session"] is shared.server.shared_aiohttp_session
        assert data["shared_session"]._loop is asyncio.get_running_loop()
        await keeper.aclose()

    asyncio.run(start())
    asyncio.run(use())


async def test_what_it_does_is_logged_in_litellms_words(
    shared: SimpleNamespace,
    session: aiohttp.ClientSession,
    keeper: SessionKeeper,
    caplog: pytest.LogCaptureFixture,
    mocker: MockerFixture,
) -> None:
    mocker.patch.object(keeper._log, "propagate", new=True)
    with caplog.at_level(logging.INFO, logger=keeper._log.name):
        await attach(shared)
        await session.close()
        await attach(shared)
    messages = [(record.levelname, record.getMessage()) for record in caplog.records]
    attached = [text for _, text in messages if "SESSION REUSE: Attached" in text]
    assert len(attached) == 2
    warned = [text for level, text in messages if level == "WARNING"]
    assert any(re.search(r"SESSION REUSE: .* is closed \(ID: \d+\), recreating", w) for w in warned)


async def test_the_settings_are_litellms_own(
    shared: SimpleNamespace, session: aiohttp.ClientSession
) -> None:
    def settings(of: aiohttp.ClientSession) -> tuple[object, ...]:
        connector = of.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        return connector.limit, connector.limit_per_host, connector._keepalive_timeout

    expected = settings(session)
    await session.close()
    assert settings((await attach(shared))["shared_session"]) == expected


async def test_mocked_sessions_and_initialisers_are_respected(
    shared: SimpleNamespace, initialiser_name: str, mocker: MockerFixture
) -> None:
    """LiteLLM's own tests replace both with mocks, one after the other within milliseconds."""
    for _ in range(3):
        closed, fresh = mocker.MagicMock(closed=True), mocker.MagicMock(closed=False)
        mocker.patch.object(shared.server, "shared_aiohttp_session", closed)
        mocker.patch.object(
            shared.server, initialiser_name, new=mocker.AsyncMock(return_value=None)
        )
        assert "shared_session" not in await attach(shared)
        closed_again = mocker.MagicMock(closed=True)
        mocker.patch.object(shared.server, "shared_aiohttp_session", closed_again)
        mocker.patch.object(
            shared.server, initialiser_name, new=mocker.AsyncMock(return_value=fresh)
        )
        assert (await attach(shared))["shared_session"] is fresh
        mocker.stopall()
