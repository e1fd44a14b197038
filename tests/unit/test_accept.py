"""Which worker takes a connection that waits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import multiprocessing
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from litellm_resilience.supervisor import accept
from litellm_resilience.supervisor.accept import (
    FRESH,
    MOST_PATIENCE,
    PATIENCE,
    WEIGHT,
    Acceptor,
    Share,
    Turn,
    at_once,
    by_share,
    patience,
    surplus,
)
from litellm_resilience.supervisor.policy import WorkerState
from litellm_resilience.supervisor.scoreboard import Row, Scoreboard

TURN = st.builds(Turn, st.integers(0, 20), st.floats(0, 10))
TURNS = st.lists(TURN, max_size=8)


class TestPatience:
    def test_a_worker_alone_takes_all(self) -> None:
        assert patience(Turn(1000, 7.0), []) == 0

    @given(TURN, TURNS)
    def test_only_who_has_more_or_took_later_than_another_leaves_a_connection(
        self, own: Turn, others: list[Turn]
    ) -> None:
        earlier = [
            other
            for other in others
            if other.load < own.load or (other.load == own.load and other.taken_at < own.taken_at)
        ]
        assert (patience(own, others) > 0) == bool(earlier)

    @given(TURN, TURNS)
    def test_it_has_a_bound(self, own: Turn, others: list[Turn]) -> None:
        assert 0 <= patience(own, others) <= MOST_PATIENCE

    def test_it_grows_faster_than_what_a_worker_has_more(self) -> None:
        idle = Turn(0, 0.0)
        one, two = (patience(Turn(more * WEIGHT, 0.0), [idle]) for more in (1, 2))
        assert one == PATIENCE
        assert two > 2 * one

    def test_who_took_later_counts_as_if_it_had_one_request_more(self) -> None:
        idle = Turn(0, 0.0)
        assert patience(Turn(0, 1.0), [idle]) == patience(Turn(1, 0.0), [idle])

    @given(TURNS.filter(bool))
    def test_one_of_the_workers_takes_it_at_once(self, turns: list[Turn]) -> None:
        waits = [patience(own, turns[:i] + turns[i + 1 :]) for i, own in enumerate(turns)]
        assert min(waits) == 0


LOADS = st.lists(st.integers(0, 40), min_size=1, max_size=8)


class TestAtOnce:
    def test_a_worker_alone_takes_all(self) -> None:
        assert at_once(7, 1000, []) == 7

    @pytest.mark.parametrize(
        ("waiting", "own", "others", "number"),
        [
            (64, 0, [0, 0, 0], 16),
            (48, 16 * WEIGHT, [0, 0, 0], 0),
            (64, 0, [1000, 0], 32),
            (10, 2 * WEIGHT, [0, 0], 2),
            (3, 0, [0, 0, 0], 0),
        ],
    )
    def test_it_is_what_makes_all_level(
        self, waiting: int, own: int, others: list[int], number: int
    ) -> None:
        assert at_once(waiting, own, others) == number

    @given(st.integers(0, 100), LOADS)
    def test_together_they_take_no_more_than_waits_and_leave_less_than_one_each(
        self, waiting: int, loads: list[int]
    ) -> None:
        taken = [at_once(waiting, own, loads[:i] + loads[i + 1 :]) for i, own in enumerate(loads)]
        assert waiting - len(loads) < sum(taken) <= waiting

    @given(st.integers(0, 100), LOADS)
    def test_nobody_gets_ahead_of_another(self, waiting: int, loads: list[int]) -> None:
        own, *others = loads
        number = at_once(waiting, own, others)
        rest = WEIGHT * (waiting - number)
        if number and others:
            least = min(others)
            assert own + WEIGHT * number <= least + rest


class TestShare:
    @pytest.fixture
    def board(self) -> Scoreboard:
        return Scoreboard.create(multiprocessing.get_context("fork"), 4)

    @pytest.fixture
    def share(self, board: Scoreboard) -> Share:
        """The share of a worker that has one connection."""
        state = ServerState()
        state.connections.add(object())  # type: ignore[arg-type]
        return Share(board, board.claim(), state)

    def other(self, board: Scoreboard) -> Row:
        """The row of another worker, which has nothing and takes connections."""
        row = board.row(board.claim())
        row.state = WorkerState.SERVING
        row.turned_at = time.monotonic() + 1000
        row.accepting = 1
        return row

    def test_another_that_has_less_is_waited_for(self, board: Scoreboard, share: Share) -> None:
        self.other(board)
        share.look()
        assert share.patience() > 0

    def test_one_that_has_just_begun_is_waited_for(self, board: Scoreboard, share: Share) -> None:
        self.other(board).turned_at = 0.0
        share.look()
        assert share.patience() > 0

    @pytest.mark.parametrize(
        "change",
        [
            lambda row: setattr(row, "load", WEIGHT),
            lambda row: setattr(row, "accepting", 0),
            lambda row: setattr(row, "turned_at", time.monotonic() - FRESH),
        ],
        ids=["has as much", "takes nothing", "is blocked"],
    )
    def test_another_that(
        self, board: Scoreboard, share: Share, change: Callable[[Row], None]
    ) -> None:
        change(self.other(board))
        share.look()
        assert share.patience() == 0

    def test_who_took_the_last_one_leaves_the_next_to_another_that_has_as_much(
        self, board: Scoreboard, share: Share
    ) -> None:
        self.other(board).load = WEIGHT
        share.took()
        share.look()
        assert share.patience() > 0

    def test_one_that_has_ended_is_not_waited_for(self, board: Scoreboard, share: Share) -> None:
        self.other(board).state = None
        share.look()
        assert share.patience() == 0

    def test_a_connection_counts_from_its_arrival_and_once(
        self, board: Scoreboard, share: Share
    ) -> None:
        made: Any = object()
        share.arriving |= {object(), made}
        share.note()
        assert board.row(0).connections == 3
        share._state.connections.add(made)
        assert board.row(0).connections == 3
        assert made not in share.arriving
        share._state.connections.discard(made)
        assert board.row(0).connections == 2

    def test_the_others_are_told_of_an_arrival_at_once(
        self, board: Scoreboard, share: Share
    ) -> None:
        share.arriving.add("connection")
        assert (board.row(0).connections, board.row(0).load) == (2, 2 * WEIGHT)
        share.arriving.discard("connection")
        assert (board.row(0).connections, board.row(0).load) == (1, WEIGHT)

    def test_the_others_are_told_of_what_ends_at_once(self, board: Scoreboard) -> None:
        state: Any = ServerState()
        Share(board, board.claim(), state)
        row = board.row(0)
        state.connections.add("connection")
        state.tasks.add("request")
        assert (row.connections, row.load) == (1, WEIGHT + 1)
        state.tasks.discard("request")
        assert row.load == WEIGHT
        state.connections.discard("connection")
        assert (row.connections, row.load) == (0, 0)
        state.connections.add("WebSocket")
        state.connections.remove("WebSocket")
        assert (row.connections, row.load) == (0, 0)

    def test_a_new_worker_of_the_row_begins_with_nothing(
        self, board: Scoreboard, share: Share
    ) -> None:
        share.accept(accepting=True)
        share.took()
        share.note()
        board.release(0)
        row = board.row(board.claim())
        assert (row.accepting, row.connections, row.load, row.taken_at) == (0, 0, 0, 0)


class TestSurplus:
    """Keep-alive connections that a worker has beyond its share."""

    @pytest.mark.parametrize(
        ("connections", "others"),
        [
            (1000, []),
            (1, [0, 0, 0]),
            (5, [3]),
            (3, [3, 2, 1]),
            (18, [16, 15, 15]),
            (90, [80, 70]),
        ],
    )
    def test_a_little_more_than_others_is_none(self, connections: int, others: list[int]) -> None:
        assert surplus(connections, others) <= 0

    @pytest.mark.parametrize(
        ("connections", "others"),
        [(2, [2, 0]), (3, [0, 0, 0]), (6, [2]), (19, [15, 15, 15]), (64, [0, 0, 0])],
    )
    def test_much_more_is_one(self, connections: int, others: list[int]) -> None:
        assert surplus(connections, others) > 0

    @pytest.fixture
    def connections(self) -> list[str]:
        return [f"connection {number}" for number in range(8)]

    @pytest.fixture
    def share(self, connections: list[str]) -> Share:
        """The share of a worker that has all of the connections, beside one that has none."""
        board = Scoreboard.create(multiprocessing.get_context("fork"), 2)
        state: Any = SimpleNamespace(connections=set(connections), tasks=set())
        share = Share(board, board.claim(), state)
        board.row(board.claim()).accepting = 1
        share.accept(accepting=True)
        return share

    def told(self, share: Share, ticks: int, unable: Collection[str] = ()) -> set[str]:
        """The connections that end, of those that can be told to."""
        leaving: set[str] = set()

        def announce(connection: str) -> bool:
            if connection in unable:
                return False
            leaving.add(connection)
            return True

        for _ in range(ticks):
            before = len(leaving)
            share.look()
            share.let_go(leaving.__contains__, announce)
            assert len(leaving) - before <= 1
        return leaving

    def test_one_client_at_a_time_is_told_until_the_rest_is_even(self, share: Share) -> None:
        assert self.told(share, accept.SURPLUS_TICKS - 1) == set()
        assert len(self.told(share, 1)) == 1
        assert len(self.told(share, 100)) == 4

    def test_one_that_cannot_be_told_is_passed_over(
        self, share: Share, connections: list[str]
    ) -> None:
        assert self.told(share, 100, connections[:-1]) == {connections[-1]}

    def test_who_takes_nothing_tells_nobody(self, share: Share) -> None:
        share.accept(accepting=False)
        assert self.told(share, 100) == set()


class Turns:
    """Stands for a share: tells how long to wait, and counts how often it was asked."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked = 0
        self.took_how_many = 0
        self.accepting = False
        self.waiting: list[int] = []
        self.number = 0

    def at_once(self, waiting: int) -> int:
        self.waiting.append(waiting)
        return self.number

    def patience(self) -> float:
        self.asked += 1
        return self.seconds

    def took(self) -> None:
        self.took_how_many += 1

    def accept(self, *, accepting: bool) -> None:
        self.accepting = accepting


class Listener(socket.socket):
    """A listening socket without a file descriptor for what comes, as long as it is told so."""

    full = False

    def accept(self) -> tuple[socket.socket, Any]:
        if self.full:
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


async def until(condition: Callable[[], Any]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), 20)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener


class Worker:
    """Takes connections of a listening socket."""

    def __init__(self, listener: Listener) -> None:
        self.turns = Turns()
        self.taken: list[socket.socket] = []
        share: Any = self.turns
        self.acceptor = Acceptor(listener, self.taken.append, share)
        self.acceptor.start(16)

    def close(self) -> None:
        self.acceptor.close()
        for connection in self.taken:
            connection.close()


class TestAcceptor:
    @pytest.fixture
    async def worker(self, listener: Listener) -> AsyncIterator[Worker]:
        worker = Worker(listener)
        yield worker
        worker.close()

    @pytest.fixture
    def connect(self, listener: Listener) -> Iterator[Callable[[], object]]:
        """Opens one more connection."""
        with contextlib.ExitStack() as opened:
            address = listener.getsockname()
            yield lambda: opened.enter_context(socket.create_connection(address))

    async def test_all_that_is_its_share_is_taken(
        self, worker: Worker, connect: Callable[[], object]
    ) -> None:
        for _ in range(3):
            connect()
        await until(lambda: len(worker.taken) == 3)
        assert worker.turns.took_how_many == 3

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how many wait")
    async def test_it_knows_how_many_wait(
        self, worker: Worker, connect: Callable[[], object]
    ) -> None:
        for _ in range(5):
            connect()
        await until(lambda: len(worker.taken) == 5)
        assert worker.turns.waiting == [5, 4, 3, 2, 1]

    async def test_what_is_its_own_for_certain_is_taken_without_waiting_for_others(
        self, worker: Worker, connect: Callable[[], object]
    ) -> None:
        worker.turns.seconds = 1000.0
        worker.turns.number = 2
        for _ in range(4):
            connect()
        await until(lambda: len(worker.taken) == 4)
        assert worker.turns.asked == 0

    async def test_workers_share_a_burst(
        self, listener: Listener, connect: Callable[[], object]
    ) -> None:
        board = Scoreboard.create(multiprocessing.get_context("fork"), 4)
        slots = [board.claim() for _ in range(4)]
        for slot in slots:
            board.row(slot).accepting = 1
        taken = [0] * 4
        sockets: list[socket.socket] = []

        def worker(slot: int) -> Acceptor:
            state: Any = ServerState()
            share = Share(board, slot, state)
            share.look()

            def take(connection: socket.socket) -> None:
                sockets.append(connection)
                taken[slot] += 1
                state.connections.add(connection)

            own = listener.dup()
            sockets.append(own)
            return Acceptor(own, take, share)

        listener.listen(64)
        for _ in range(64):
            connect()
        acceptors = [worker(slot) for slot in slots]
        for acceptor in acceptors:
            acceptor.start(64)
        await until(lambda: sum(taken) == 64)
        for acceptor in acceptors:
            acceptor.close()
        for connection in sockets:
            connection.close()
        assert taken == [16] * 4

    async def test_where_the_system_does_not_tell_how_many_wait_each_is_taken(
        self, worker: Worker, connect: Callable[[], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        for _ in range(3):
            connect()
        await until(lambda: len(worker.taken) == 3)
        assert set(worker.turns.waiting) == {1}

    async def test_one_is_taken_even_if_the_system_says_that_none_waits(
        self, worker: Worker, connect: Callable[[], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        says_none = SimpleNamespace(size=accept.TCP_INFO.size, unpack=lambda _: (0,))
        monkeypatch.setattr(accept, "TCP_INFO", says_none)
        connect()
        await until(lambda: worker.taken)

    async def test_what_is_left_to_others_is_taken_by_them(
        self, listener: Listener, worker: Worker, connect: Callable[[], object]
    ) -> None:
        other = Worker(listener)
        try:
            worker.turns.seconds = 1000.0
            connect()
            await until(lambda: other.taken)
            assert worker.taken == []
        finally:
            other.close()

    async def test_what_the_others_leave_is_taken_after_a_while(
        self, worker: Worker, connect: Callable[[], object]
    ) -> None:
        worker.turns.seconds = 1000.0
        connect()
        await until(lambda: worker.turns.asked > 3)
        assert worker.taken == []
        worker.turns.seconds = 0.05
        await until(lambda: worker.taken)

    async def test_it_takes_its_share_as_soon_as_it_is_one(
        self, worker: Worker, connect: Callable[[], object]
    ) -> None:
        worker.turns.seconds = 1000.0
        connect()
        await until(lambda: worker.turns.asked > 3)
        worker.turns.seconds = 0.0
        await until(lambda: worker.taken)

    async def test_without_a_file_descriptor_the_others_need_not_wait_for_it(
        self,
        listener: Listener,
        worker: Worker,
        connect: Callable[[], object],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(accept, "RETRY_SECONDS", 0.01)
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context)
        )
        assert worker.turns.accepting
        listener.full = True
        connect()
        await until(lambda: reported and not worker.turns.accepting)
        listener.full = False
        await until(lambda: worker.taken)
        assert worker.turns.accepting

    async def test_once_closed_it_takes_nothing(
        self, listener: Listener, worker: Worker, connect: Callable[[], object]
    ) -> None:
        worker.turns.seconds = 1000.0
        connect()
        await until(lambda: worker.turns.asked)
        worker.acceptor.close()
        worker.turns.seconds = 0.0
        worker.acceptor.close()
        assert not worker.turns.accepting
        other = Worker(listener)
        try:
            await until(lambda: other.taken)
            assert worker.taken == []
        finally:
            other.close()


class TestServersOfALoop:
    @pytest.fixture
    def share(self) -> Share:
        board = Scoreboard.create(multiprocessing.get_context("fork"), 1)
        return Share(board, board.claim(), ServerState())

    async def test_only_what_uvicorn_creates_is_replaced(
        self, listener: Listener, share: Share
    ) -> None:
        loop = asyncio.get_running_loop()
        with by_share([listener], share):
            ours = await loop.create_server(asyncio.Protocol, sock=listener, ssl=None, backlog=8)
            foreign = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            own = socket.create_server(("127.0.0.1", 0))
            unknown = await loop.create_server(asyncio.Protocol, sock=own, ssl=None, backlog=8)
        assert isinstance(ours, Acceptor)
        for server in (foreign, unknown):
            assert isinstance(server, asyncio.Server)
        for each in (ours, foreign, unknown):
            each.close()

    async def test_a_server_created_in_another_way_is_the_loops_own(
        self, listener: Listener, share: Share
    ) -> None:
        loop = asyncio.get_running_loop()
        with by_share([listener], share):
            server = await loop.create_server(asyncio.Protocol, sock=listener, backlog=8)
        assert isinstance(server, asyncio.Server)
        server.close()

    async def test_a_client_that_is_gone_again_disturbs_nobody(
        self, listener: Listener, share: Share
    ) -> None:
        """Its TLS handshake fails."""
        loop = asyncio.get_running_loop()
        reported: list[Any] = []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        made: list[asyncio.Protocol] = []

        def factory() -> asyncio.Protocol:
            made.append(asyncio.Protocol())
            return made[-1]

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with by_share([listener], share):
            server = await loop.create_server(factory, sock=listener, ssl=context, backlog=8)
        socket.create_connection(listener.getsockname()).close()
        await until(lambda: made)
        await until(lambda: not share.arriving)
        server.close()
        assert reported == []
