"""Which connections are idle, and how a drain is announced on those that are not."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pytest
from uvicorn.config import Config

from litellm_resilience.supervisor.drain import CLOSE_HEADER, DrainingServer, is_idle

OWN = (b"server", b"uvicorn")


class Cycle:
    """A request and its response."""

    def __init__(
        self, scope: object = None, *, started: bool = False, complete: bool = False
    ) -> None:
        self.scope = scope
        self.response_started = started or complete
        self.response_complete = complete
        self.default_headers = [OWN]


class H11Parser:
    def __init__(self, received: bytes) -> None:
        self.trailing_data = (received, False)


class H11Connection:
    """A connection as of uvicorn's h11 protocol, with what its parser has not used yet."""

    def __init__(self, cycle: Cycle | None = None, received: bytes = b"") -> None:
        self.conn = H11Parser(received)
        self.scope = cycle and cycle.scope
        self.cycle = cycle


class HttptoolsConnection:
    """A connection as of uvicorn's httptools protocol: a new scope as soon as a request begins."""

    def __init__(self, cycle: Cycle | None = None, scope: object = None) -> None:
        self.scope = scope
        self.cycle = cycle


class WebSocketConnection:
    pass


def httptools_after(cycle: Cycle) -> HttptoolsConnection:
    return HttptoolsConnection(cycle, cycle.scope)


@pytest.mark.parametrize(
    "connection",
    [
        H11Connection(),
        H11Connection(Cycle({}, complete=True)),
        HttptoolsConnection(),
        httptools_after(Cycle({}, complete=True)),
    ],
    ids=["h11 new", "h11 answered", "httptools new", "httptools answered"],
)
def test_it_is_idle_before_and_between_requests(connection: object) -> None:
    assert is_idle(connection)


@pytest.mark.parametrize(
    "connection",
    [
        H11Connection(Cycle({})),
        H11Connection(Cycle({}, started=True)),
        H11Connection(received=b"GET / HT"),
        H11Connection(Cycle({}, complete=True), received=b"GET / HT"),
        httptools_after(Cycle({})),
        httptools_after(Cycle({}, started=True)),
        HttptoolsConnection(scope={}),
        HttptoolsConnection(Cycle({}, complete=True), scope={}),
    ],
    ids=[
        "h11 asked",
        "h11 answering",
        "h11 first half",
        "h11 next half",
        "httptools asked",
        "httptools answering",
        "httptools first half",
        "httptools next half",
    ],
)
def test_it_is_not_idle_from_the_first_byte_to_the_last(connection: object) -> None:
    assert not is_idle(connection)


def test_a_websocket_is_never_idle() -> None:
    assert not is_idle(WebSocketConnection())


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer anything."""


def server_of(*connections: Any) -> DrainingServer:
    config = Config(answer, http="h11", ws="none", lifespan="off", log_config=None)
    config.load()
    server = DrainingServer(config)
    server.server_state.connections.update(connections)
    return server


@pytest.mark.parametrize(
    ("module", "protocol"), [("h11", "H11Protocol"), ("httptools", "HttpToolsProtocol")]
)
async def test_uvicorns_own_connections_are_understood(module: str, protocol: str) -> None:
    pytest.importorskip(module)
    implementation = importlib.import_module(f"uvicorn.protocols.http.{module}_impl")
    server = server_of()
    connection = getattr(implementation, protocol)(server.config, server.server_state, {})
    connection.connection_made(asyncio.Transport())
    assert is_idle(connection)
    connection.data_received(b"GET / HTTP/1.1\r\nHo")
    assert not is_idle(connection)


def test_the_end_is_announced_once() -> None:
    server = server_of()
    headers = server.server_state.default_headers
    server._announce()
    server._announce()
    assert headers.count(CLOSE_HEADER) == 1
    assert server.server_state.default_headers is headers


@pytest.mark.parametrize("kind", [H11Connection, httptools_after])
def test_a_reply_that_has_not_begun_announces_it_too(kind: Any) -> None:
    waiting = Cycle({})
    server = server_of(kind(waiting))
    server._announce()
    server._announce()
    assert waiting.default_headers == [OWN, CLOSE_HEADER]


@pytest.mark.parametrize("cycle", [Cycle({}, started=True), Cycle({}, complete=True)])
def test_a_reply_that_has_begun_is_left_alone(cycle: Cycle) -> None:
    server = server_of(H11Connection(cycle))
    server._announce()
    assert cycle.default_headers == [OWN]


def test_a_list_that_replies_share_is_not_changed_for_one_of_them() -> None:
    waiting, begun = Cycle({}), Cycle({}, started=True)
    begun.default_headers = waiting.default_headers
    server = server_of(H11Connection(waiting), H11Connection(begun))
    server._announce()
    assert CLOSE_HEADER in waiting.default_headers
    assert CLOSE_HEADER not in begun.default_headers


def test_connections_without_a_request_are_left_alone() -> None:
    server = server_of(WebSocketConnection(), H11Connection(), HttptoolsConnection())
    server._announce()
    assert CLOSE_HEADER in server.server_state.default_headers


async def test_only_a_drain_is_announced() -> None:
    server = server_of()
    await server.on_tick(0)
    assert CLOSE_HEADER not in server.server_state.default_headers


async def test_headers_that_uvicorn_renews_are_announced_again() -> None:
    """Uvicorn makes a new list at every tenth tick."""
    server = server_of()
    server.draining = True
    for counter in (0, 1, 10):
        await server.on_tick(counter)
        assert server.server_state.default_headers.count(CLOSE_HEADER) == 1
