"""Which connections wait for their clients, and how a drain is announced on the others."""

from __future__ import annotations

import asyncio
import importlib
import logging
import multiprocessing
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture
from uvicorn.config import Config
from uvicorn.lifespan.off import LifespanOff

from litellm_resilience.supervisor import drain
from litellm_resilience.supervisor.drain import CLOSE_HEADER, TICKS_PER_LOOK, DrainingServer
from litellm_resilience.supervisor.figures import NOTHING_HELD, Held
from litellm_resilience.supervisor.link import Link
from litellm_resilience.supervisor.quiet import Quiet, Waiting, counting, waits
from litellm_resilience.supervisor.scoreboard import Scoreboard
from litellm_resilience.supervisor.worker import Assignment, WorkerServer
from tests.support import strict_websocket

OWN = (b"server", b"uvicorn")


class Cycle:
    """A request and its response."""

    def __init__(
        self,
        scope: object = None,
        *,
        started: bool = False,
        complete: bool = False,
        more_body: bool = False,
        waiting_for_100_continue: bool = False,
    ) -> None:
        self.scope = scope
        self.more_body = more_body
        self.waiting_for_100_continue = waiting_for_100_continue
        self.response_started = started or complete
        self.response_complete = complete
        self.default_headers = [OWN]


class H11Parser:
    def __init__(self, received: bytes) -> None:
        self.trailing_data = (received, False)


class Connection:
    """What connections of uvicorn's HTTP protocols have in common."""

    pieces = 0

    def __init__(self) -> None:
        self.flow = SimpleNamespace(read_paused=False)


class H11Connection(Connection):
    """A connection as of uvicorn's h11 protocol, with what its parser has not used yet."""

    def __init__(self, cycle: Cycle | None = None, received: bytes = b"") -> None:
        super().__init__()
        self.conn = H11Parser(received)
        self.scope = cycle and cycle.scope
        self.cycle = cycle


class HttptoolsConnection(Connection):
    """A connection as of uvicorn's httptools protocol: a new scope as soon as a request begins."""

    def __init__(self, cycle: Cycle | None = None, scope: object = None) -> None:
        super().__init__()
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
    assert waits(connection) is Waiting.REQUEST


@pytest.mark.parametrize("kind", [H11Connection, httptools_after])
@pytest.mark.parametrize(
    "cycle",
    [
        Cycle({}),
        Cycle({}, started=True),
        Cycle({}, more_body=True, started=True),
        Cycle({}, more_body=True, waiting_for_100_continue=True),
    ],
    ids=["asked", "answering", "answering early", "not told to go on"],
)
def test_while_it_is_our_turn_it_does_not_wait(kind: Any, cycle: Cycle) -> None:
    assert waits(kind(cycle)) is None


@pytest.mark.parametrize("kind", [H11Connection, httptools_after])
def test_it_does_not_wait_while_we_do_not_read(kind: Any) -> None:
    connection = kind(Cycle({}, more_body=True))
    assert waits(connection) is Waiting.REST
    connection.flow.read_paused = True
    assert waits(connection) is None


@pytest.mark.parametrize(
    "connection",
    [
        H11Connection(received=b"GET / HT"),
        H11Connection(Cycle({}, complete=True), received=b"GET / HT"),
        H11Connection(Cycle({}, more_body=True)),
        HttptoolsConnection(scope={}),
        HttptoolsConnection(Cycle({}, complete=True), scope={}),
        httptools_after(Cycle({}, more_body=True)),
    ],
    ids=[
        "h11 first half",
        "h11 next half",
        "h11 body",
        "httptools first half",
        "httptools next half",
        "httptools body",
    ],
)
def test_it_waits_for_the_rest_of_a_request_that_has_begun(connection: object) -> None:
    assert waits(connection) is Waiting.REST


def test_nothing_is_known_of_a_request_whose_pieces_are_not_counted() -> None:
    connection = SimpleNamespace(cycle=None, scope={})
    assert waits(connection) is None


def test_a_websocket_never_waits() -> None:
    assert waits(WebSocketConnection()) is None


class Ended(Connection):
    """A connection that knows how it was ended, over a real socket if it is given one."""

    cycle = None
    scope: object = None

    def __init__(self, own: socket.socket | None = None) -> None:
        super().__init__()
        self.told: list[bytes] = []
        self.closed = 0
        self.transport = SimpleNamespace(
            get_extra_info=lambda name: own if name == "socket" else None,
            write=self.told.append,
            close=self.shutdown,
        )

    def shutdown(self) -> None:
        self.closed += 1


BOUNDS = {Waiting.REQUEST: 5.0, Waiting.REST: 30.0}


def test_an_idle_connection_ends_at_its_bound_without_a_word() -> None:
    quiet, connection = Quiet(), Ended()
    for now in (100.0, 104.9):
        quiet.end([connection], BOUNDS, now)
    assert not connection.closed
    quiet.end([connection], BOUNDS, 105.0)
    assert connection.closed
    assert connection.told == []


def test_a_request_that_does_not_go_on_is_told_so_at_its_bound() -> None:
    """Each piece that comes gives it the whole time anew."""
    quiet, connection = Quiet(), Ended()
    connection.scope = {}
    for piece, now in enumerate((100.0, 129.0, 158.0)):
        connection.pieces = piece
        quiet.end([connection], BOUNDS, now)
    quiet.end([connection], BOUNDS, 187.9)
    assert not connection.closed
    quiet.end([connection], BOUNDS, 188.0)
    assert connection.closed
    assert connection.told[0].startswith(b"HTTP/1.1 408 ")


def test_a_request_that_begins_has_its_own_bound() -> None:
    quiet, connection = Quiet(), Ended()
    quiet.end([connection], BOUNDS, 100.0)
    connection.scope = {}
    connection.pieces += 1
    for now in (104.0, 133.0):
        quiet.end([connection], BOUNDS, now)
    assert not connection.closed


def test_what_has_come_and_is_not_read_yet_keeps_a_connection() -> None:
    """The event loop may have been busy since; the client has sent in time."""
    theirs, own = socket.socketpair()
    with theirs, own:
        quiet, connection = Quiet(), Ended(own)
        quiet.end([connection], BOUNDS, 100.0)
        theirs.send(b"GET")
        quiet.end([connection], BOUNDS, 200.0)
        assert not connection.closed
        own.recv(3)
        quiet.end([connection], BOUNDS, 200.1)
        assert connection.closed


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
    counted = counting(getattr(implementation, protocol))
    connection: Any = counted(server.config, server.server_state, {})
    connection.connection_made(asyncio.Transport())
    assert waits(connection) is Waiting.REQUEST
    connection.data_received(b"POST / HTTP/1.1\r\nHo")
    assert waits(connection) is Waiting.REST
    connection.data_received(b"st: a\r\nContent-Length: 2\r\n\r\n")
    assert waits(connection) is Waiting.REST
    connection.data_received(b"{}")
    assert waits(connection) is None
    assert connection.pieces == 3


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


async def test_replies_say_how_long_their_connection_is_kept_until_they_are_the_last() -> None:
    waiting = Cycle({})
    server = server_of(H11Connection(waiting))
    server.config.timeout_keep_alive = 65
    server._say_how_long_connections_are_kept()
    await server.on_tick(0)
    kept = (b"keep-alive", b"timeout=65")
    headers = server.server_state.default_headers
    assert kept in headers
    waiting.default_headers = headers
    server._announce()
    for announced in (waiting.default_headers, server.server_state.default_headers):
        assert kept not in announced
        assert announced.count(CLOSE_HEADER) == 1


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_replies_do_not_say_that_their_connection_is_kept_for_no_time(seconds: Any) -> None:
    server = server_of()
    server.config.timeout_keep_alive = seconds
    server._say_how_long_connections_are_kept()
    assert b"keep-alive" not in dict(server.config.encoded_headers)


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


class Arriving(set[str]):
    """A handshake that is under way for some looks."""

    def __init__(self, looks: float) -> None:
        super().__init__({"a connection"})
        self.looks = looks

    def __len__(self) -> int:
        self.looks -= 1
        if self.looks == 0:
            self.clear()
        return super().__len__()


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_drain_waits_for_connections_that_are_about_to_be_made(
    mocker: MockerFixture, stopped: bool
) -> None:
    mocker.patch.object(drain, "ACCEPT_GRACE", 0.0)
    server = server_of()
    server.lifespan = LifespanOff(server.config)
    server.servers = []
    server.should_exit = stopped
    server.arriving = arriving = Arriving(5)
    await server.shutdown()
    assert arriving.looks == 0


@pytest.mark.parametrize(
    ("bound", "stopped"), [("HANDSHAKE_GRACE", False), ("STOP_HANDSHAKE_GRACE", True)]
)
async def test_a_connection_that_is_never_made_holds_no_drain_up_for_long(
    mocker: MockerFixture, bound: str, stopped: bool
) -> None:
    mocker.patch.object(drain, bound, 0.3)
    server = server_of()
    server.lifespan = LifespanOff(server.config)
    server.servers = []
    server.should_exit = stopped
    server.arriving = Arriving(float("inf"))
    await asyncio.wait_for(server.shutdown(), 5)


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


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_a_drain_ends_connections_whose_clients_send_nothing(http: str, until: Any) -> None:
    """However long the keep-alive timeout is."""
    pytest.importorskip(http)
    app = Patient()
    async with started(app, http) as service:
        server = service.server
        server.config.timeout_keep_alive = 3600
        server.idle_grace = server.rest_grace = 0.2
        idle, half, body = [await service.connect() for _ in range(3)]
        half.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        body.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        await until(lambda: app.begun == 1 and len(server.server_state.connections) == 3)
        drain = asyncio.create_task(server.shutdown())
        with pytest.raises(asyncio.IncompleteReadError):
            await idle.reply()
        for peer in (half, body):
            assert (await peer.reply()).startswith(b"HTTP/1.1 408 ")
        app.may_answer.set()
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


def test_a_worker_asked_to_end_before_its_first_turn_is_told_at_that_turn() -> None:
    """Older uvicorn would leave without any shutdown."""
    context = multiprocessing.get_context("spawn")
    board = Scoreboard.create(context, 1)
    link = Link.create(context)
    counts: Any = SimpleNamespace(generation=0, recreated=0, prevented_closes=0, pool_waits=0)
    server = WorkerServer(
        Assignment(
            number=1,
            config=Config(LifespanOff),
            sockets=[],
            link=link.worker,
            board=board,
            slot=board.claim(),
            session_counts=lambda: counts,
            held=lambda _: NOTHING_HELD,
            request_limit=None,
            drain_timeout=1.0,
            keep_helpers=frozenset(),
            slow_callback=0.0,
            watch_replies=False,
            log=logging.getLogger(__name__),
            balanced=False,
        )
    )
    assert server.arriving is server._share.arriving
    server.started = True
    server.handle_exit(signal.SIGTERM, None)
    assert not server.should_exit
    assert asyncio.run(server.on_tick(1))
    assert server.should_exit
    link.supervisor.close()
    link.worker.close()
