"""Which connections are idle, and how a drain is announced on those that are not."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.lifespan.off import LifespanOff

from litellm_resilience.supervisor.drain import (
    CLOSE_HEADER,
    TICKS_PER_LOOK,
    DrainingServer,
    is_idle,
)
from litellm_resilience.supervisor.figures import NOTHING_HELD, Held
from tests.support import strict_websocket

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


async def test_a_drain_waits_for_what_replies_have_left_behind() -> None:
    server = server_of()
    left = [Held(2, {}), Held(1, {}), NOTHING_HELD]
    server.held = lambda _: left[0] if len(left) == 1 else left.pop(0)
    server.servers = []
    server.lifespan = LifespanOff(server.config)
    await server.shutdown()
    assert left == [NOTHING_HELD]


def test_a_worker_looks_for_tasks_once_a_second_and_always_in_a_drain() -> None:
    server = server_of()
    asked: list[Any] = []

    def held(besides: Any) -> Held:
        asked.append(besides)
        return Held(0 if besides is None else 7, {"box": 3})

    server.held = held
    looks = [server.look(counter) for counter in range(TICKS_PER_LOOK + 1)]
    assert looks == [Held(7, {"box": 3})] * len(looks)
    tasks = server.server_state.tasks
    assert asked == [tasks, *[None] * (TICKS_PER_LOOK - 1), tasks]
    server.draining = True
    server.look(1)
    assert asked[-1] is tasks


async def test_headers_that_uvicorn_renews_are_announced_again() -> None:
    """Uvicorn makes a new list at every tenth tick."""
    server = server_of()
    server.draining = True
    for counter in (0, 1, 10):
        await server.on_tick(counter)
        assert server.server_state.default_headers.count(CLOSE_HEADER) == 1


class Patient:
    """An application that answers and accepts when it may."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.begun += 1
        await self.may_answer.wait()
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif scope["path"] == "/refused":
            await send({"type": "websocket.close"})
        else:
            await send({"type": "websocket.accept"})
            await receive()


class Peer:
    """A client's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.send = writer.write
        self.close = writer.close
        self._reader = reader

    async def reply(self) -> bytes:
        """Return the status line and the headers of the next reply."""
        return await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)


class Started:
    """A server that listens and has just made its default headers."""

    def __init__(self, server: DrainingServer) -> None:
        self.server = server
        self._peers: list[Peer] = []

    async def connect(self) -> Peer:
        """Return a new connection."""
        (listener,) = self.server.servers[0].sockets
        peer = Peer(*await asyncio.open_connection(*listener.getsockname()))
        self._peers.append(peer)
        return peer

    def hang_up(self) -> None:
        for peer in self._peers:
            peer.close()


@asynccontextmanager
async def started(app: Any, http: Any, ws: Any = "none") -> AsyncIterator[Started]:
    config = Config(
        app, host="127.0.0.1", port=0, http=http, ws=ws, lifespan="off", log_config=None
    )
    config.load()
    server = DrainingServer(config)
    server.drain_timeout = 10
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    await server.on_tick(0)
    it = Started(server)
    try:
        yield it
    finally:
        it.hang_up()
        if not server.draining:
            await server.shutdown()


@pytest.mark.parametrize("ws", strict_websocket.PROTOCOLS)
@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_no_websocket_that_is_accepted_in_a_drain_announces_it(
    http: str, ws: str, until: Any
) -> None:
    """Neither one whose handshake was pending nor one on a connection that was idle."""
    pytest.importorskip(http)
    strict_websocket.require(ws)
    app = Patient()
    async with started(app, http, ws) as service:
        pending, idle = await service.connect(), await service.connect()
        pending.send(strict_websocket.request())
        await until(lambda: app.begun == 1 and len(service.server.server_state.connections) == 2)
        drain = asyncio.create_task(service.server.shutdown())
        await until(lambda: CLOSE_HEADER in service.server.server_state.default_headers)
        idle.send(strict_websocket.request())
        await until(lambda: app.begun == 2)
        app.may_answer.set()
        for peer in (pending, idle):
            assert strict_websocket.refusal(await peer.reply()) is None
        service.hang_up()
        await asyncio.wait_for(drain, 10)


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_every_http_reply_in_a_drain_announces_it(http: str, until: Any) -> None:
    """That of a request that was read before, and that of one on a kept connection."""
    pytest.importorskip(http)
    app = Patient()
    get = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    async with started(app, http) as service:
        pending, idle, old = [await service.connect() for _ in range(3)]
        old.send(get)
        await until(lambda: app.begun == 1)
        await service.server.on_tick(10)
        pending.send(get)
        await until(lambda: app.begun == 2 and len(service.server.server_state.connections) == 3)
        drain = asyncio.create_task(service.server.shutdown())
        await until(lambda: CLOSE_HEADER in service.server.server_state.default_headers)
        idle.send(get)
        await until(lambda: app.begun == 3)
        app.may_answer.set()
        for peer in (old, pending, idle):
            assert strict_websocket.connection_tokens(await peer.reply()) == ["close"]
        await asyncio.wait_for(drain, 10)


@pytest.mark.parametrize("ws", strict_websocket.PROTOCOLS)
@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_each_handshake_counts_as_one_request(http: str, ws: str) -> None:
    """Also one that is refused, and however soon it is over."""
    pytest.importorskip(http)
    strict_websocket.require(ws)
    app = Patient()
    app.may_answer.set()
    async with started(app, http, ws) as service:
        for path, status in (("/", b"101"), ("/refused", b"403"), ("/", b"101")):
            peer = await service.connect()
            peer.send(strict_websocket.request(path))
            assert (await peer.reply()).split()[1] == status
            peer.close()
        assert service.server.server_state.total_requests == 3


@pytest.mark.parametrize("ws", strict_websocket.PROTOCOLS)
async def test_a_websocket_still_names_its_server(ws: str) -> None:
    strict_websocket.require(ws)
    app = Patient()
    app.may_answer.set()
    async with started(app, "h11", ws) as service:
        peer = await service.connect()
        peer.send(strict_websocket.request())
        assert b"\r\nserver: uvicorn\r\n" in (await peer.reply()).lower()
