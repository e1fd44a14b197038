"""Workers take connections by share, from listening sockets that all of them have.

An event loop takes all that waits when it wakes. Here a worker takes at once what makes it level
with the others, counting what they will get of the rest. Of what is left then it takes one
connection after the other, and only while none of the others has less to do, or as much and took
its last one earlier; otherwise it leaves what waits to them for a few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import select
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from uvicorn.server import ServerState

    from litellm_resilience.supervisor.scoreboard import Row, Scoreboard

STEP = 0.001
"""Seconds after which a worker that leaves a connection to others looks again."""
PATIENCE = 0.002
"""Seconds for which it does so if it has one connection more than another.

The square of how many it has more counts: one does not matter for long, and the others must get to
the connection even if a request keeps each of them busy.
"""
MOST_PATIENCE = 0.05
"""Seconds for which it does so at most."""
FRESH = 0.3
"""A worker whose event loop has not turned for so many seconds is not waited for."""
WEIGHT = 2
"""A connection weighs as much as so many requests in flight."""
LEAST_SURPLUS = 1
"""So many connections more than the mean are no surplus, nor is an eighth of the mean.

Unless another worker has none at all, such as one that a reload is tried with.
"""
SURPLUS_TICKS = 5
"""After so many ticks of surplus, one client at each tick is told to come back."""
NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
RETRY_SECONDS = 1.0
"""A worker that has no file descriptor left takes nothing for so long."""
TCP_INFO = struct.Struct("24xI")
"""Where Linux says how many connections of a listening socket wait (`linux/tcp.h`): in a field that
has another meaning, `tcpi_unacked`, for other sockets."""


class Turn(NamedTuple):
    """What decides whose turn it is to take a connection: the least comes first."""

    load: int
    taken_at: float
    """When the worker took its last one, in seconds of the monotonic clock."""


def patience(own: Turn, others: Sequence[Turn]) -> float:
    """Return for how many seconds a waiting connection is left to other workers.

    Args:
        own: of this worker.
        others: of the others that could take it.
    """
    first = min(others, default=own)
    if own <= first:
        return 0.0
    more = max(own.load - first.load, 1)
    return min(MOST_PATIENCE, PATIENCE * (more / WEIGHT) ** 2)


def at_once(waiting: int, own: int, others: Iterable[int]) -> int:
    """Return how many waiting connections make a worker level with the others.

    What is left over if the connections cannot be divided evenly is not among them.

    Args:
        waiting: how many connections wait.
        own: load of this worker.
        others: of the others that could take them.
    """
    total = float(WEIGHT * waiting)
    level = math.inf
    for number, load in enumerate(sorted((own, *others)), 1):
        if load >= level:
            break
        total += load
        level = total / number
    return max(0, int((level - own) / WEIGHT))


def turn(row: Row) -> Turn:
    """Return what a worker has told of its load."""
    return Turn(row.load, row.taken_at)


def surplus(connections: int, others: Sequence[int]) -> float:
    """Return how many connections a worker has beyond what is still even; 0 or less if none.

    Args:
        connections: of this worker.
        others: how many the others have that take connections.
    """
    mean = (connections + sum(others)) / (1 + len(others))
    spare = connections > LEAST_SURPLUS and 0 in others
    return connections - mean - max(0 if spare else LEAST_SURPLUS, mean / 8)


class Watched(set[Any]):
    """A set that tells when uvicorn has added a member or taken one away.

    Args:
        members: what it has already.
        changed: called after each change.
        expected: where those are that are to be added; taken out of it then.
    """

    def __init__(
        self, members: Iterable[Any], changed: Callable[[], None], expected: set[Any] | None = None
    ) -> None:
        super().__init__(members)
        self._changed = changed
        self._expected = set() if expected is None else expected

    def add(self, member: Any, /) -> None:
        """Add a member, and tell it."""
        super().add(member)
        self._expected.discard(member)
        self._changed()

    def discard(self, member: Any, /) -> None:
        """Remove a member if it is one, and tell it."""
        super().discard(member)
        self._changed()

    def remove(self, member: Any, /) -> None:
        """Remove a member, as for a WebSocket, and tell it.

        Raises:
            KeyError: it is none.
        """
        super().remove(member)
        self._changed()


class Share:
    """What a worker has, beside what the others have.

    Args:
        board: where all workers write.
        slot: this worker's row.
        state: what uvicorn knows of its connections and requests. Whatever changes in it, the
            others are told at once: what they hear a tick later is wrong by then.
    """

    def __init__(self, board: Scoreboard, slot: int, state: ServerState) -> None:
        self._rows = board.rows()
        self._row = self._rows.pop(slot)
        self._state = state
        self._others: list[Row] = []
        self._ticks_of_surplus = 0
        self.arriving = Watched((), self.note)
        """Protocols whose connection was accepted and is not made yet; no others."""
        state.connections = Watched(state.connections, self.note, self.arriving)
        state.tasks = Watched(state.tasks, self.note)

    def look(self) -> None:
        """Find the other workers, and note what this one has; to be called at each tick."""
        self._others = [row for row in self._rows if row.state_code]
        self.note()

    def note(self) -> None:
        """Tell the others what this worker has."""
        row = self._row
        row.connections = len(self._state.connections) + len(self.arriving)
        row.load = WEIGHT * row.connections + len(self._state.tasks)

    def accept(self, *, accepting: bool) -> None:
        """Tell the others whether this worker takes connections."""
        self._row.accepting = accepting

    def patience(self) -> float:
        """Return for how many seconds a waiting connection is left to others now."""
        return patience(turn(self._row), [turn(row) for row in self._able()])

    def at_once(self, waiting: int) -> int:
        """Return how many of the waiting connections are this worker's for certain."""
        return at_once(waiting, self._row.load, [row.load for row in self._able()])

    def took(self) -> None:
        """Tell the others that this worker has taken a connection."""
        self._row.taken_at = time.monotonic()

    def let_go(self, announced: Callable[[Any], bool], announce: Callable[[Any], bool]) -> None:
        """Have one client come back if this worker has had a surplus for a while.

        To be called at each tick.

        Args:
            announced: says whether a connection ends with the reply it waits for.
            announce: lets it; says whether that could be done.
        """
        over = surplus(self._row.connections, [row.connections for row in self._able()])
        if over <= 0 or not self._row.accepting:
            self._ticks_of_surplus = 0
            return
        self._ticks_of_surplus += 1
        if self._ticks_of_surplus < SURPLUS_TICKS:
            return
        staying = [each for each in self._state.connections if not announced(each)]
        if over > len(self._state.connections) - len(staying):
            any(map(announce, staying))

    def _able(self) -> Iterator[Row]:
        now = time.monotonic()
        return (
            row
            for row in self._others
            # One that has just begun to accept has not noted a turn yet.
            if row.accepting and now - (row.turned_at or now) < FRESH
        )


class Acceptor:
    """Takes connections of one listening socket; stands for the event loop's own server.

    Args:
        listener: the socket.
        connect: called with each connection that was accepted.
        share: of this worker.
    """

    def __init__(
        self, listener: socket.socket, connect: Callable[[socket.socket], object], share: Share
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._connect = connect
        self._share = share
        self._waiting = select.poll()
        self._waiting.register(listener, select.POLLIN)
        self._left_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open = False

    def start(self, backlog: int) -> None:
        """Listen, and take what comes."""
        self._listener.setblocking(False)
        self._listener.listen(backlog)
        self._open = True
        self._resume()

    def close(self) -> None:
        """Take nothing any more; the socket stays open."""
        if self._open:
            self._open = False
            self._pause()
            if self._timer is not None:
                self._timer.cancel()

    async def wait_closed(self) -> None:
        """Return: uvicorn waits for the connections."""

    def _resume(self) -> None:
        self._timer = None
        self._share.accept(accepting=True)
        self._loop.add_reader(self._listener, self._offered)

    def _pause(self) -> None:
        self._share.accept(accepting=False)
        self._loop.remove_reader(self._listener)

    def _offered(self) -> None:
        """Take what waits, as far as it is this worker's share."""
        now = self._loop.time()
        waiting = self._number_waiting() or 1
        while waiting:
            number = self._share.at_once(waiting)
            if not number:
                wanted = self._share.patience()
                if wanted and self._leave(now, wanted):
                    return
                number = 1
            self._left_since = None
            if not all(self._take() for _ in range(number)):
                return
            waiting = self._number_waiting()

    def _number_waiting(self) -> int:
        """Return how many connections wait, or 1 where the system does not say it."""
        if sys.platform != "linux" or self._listener.family == socket.AF_UNIX:
            return 1
        try:
            info = self._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
            return int(TCP_INFO.unpack(info)[0])
        except (OSError, struct.error):
            return 1

    def _leave(self, now: float, wanted: float) -> bool:
        """Leave what waits to the others for a moment; False if they have had their time."""
        self._left_since = self._left_since or now
        left = self._left_since + wanted - now
        if left <= 0:
            return False
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(min(left, STEP), self._look_again)
        return True

    def _look_again(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._offered)
        if self._waiting.poll(0):
            self._offered()
        else:
            self._left_since = None

    def _take(self) -> bool:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS:
                raise
            self._loop.call_exception_handler(
                {"message": "no connection can be accepted", "exception": error}
            )
            self._pause()
            self._timer = self._loop.call_later(RETRY_SECONDS, self._resume)
            return False
        self._share.took()
        connection.setblocking(False)
        self._connect(connection)
        return True


@contextlib.contextmanager
def by_share(listeners: Sequence[socket.socket], share: Share) -> Iterator[None]:
    """Have connections of these sockets taken by share if servers are created for them meanwhile.

    A server that is created in another way than uvicorn's is left to the event loop.

    Args:
        listeners: shared by all workers.
        share: of this one.
    """
    loop: Any = asyncio.get_running_loop()
    original = loop.create_server

    async def create_server(factory: Callable[[], Any], *args: Any, **settings: Any) -> Any:
        if args or settings.keys() != SETTINGS or settings["sock"] not in listeners:
            return await original(factory, *args, **settings)
        connecting = Connecting(loop, factory, settings["ssl"], share)
        share.look()
        acceptor = Acceptor(settings["sock"], connecting, share)
        acceptor.start(settings["backlog"])
        return acceptor

    loop.create_server = create_server
    try:
        yield
    finally:
        loop.create_server = original


SETTINGS = {"sock", "ssl", "backlog"}
"""What uvicorn says when it creates a server for a socket that it is given."""


class Connecting:
    """Makes a protocol for each connection.

    Args:
        loop: the event loop.
        factory: of protocols.
        ssl: the TLS context, if there is one.
        share: told of connections until they are made.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, factory: Callable[[], Any], ssl: Any, share: Share
    ) -> None:
        self._loop = loop
        self._factory = factory
        self._ssl = ssl
        self._share = share
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, connection: socket.socket) -> None:
        """Begin to serve a connection."""
        protocol = self._factory()
        self._share.arriving.add(protocol)
        task = self._loop.create_task(self._made(protocol, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _made(self, protocol: Any, connection: socket.socket) -> None:
        # As in asyncio's own server, what a client does wrong is no error of ours.
        try:
            with contextlib.suppress(Exception):
                await self._loop.connect_accepted_socket(
                    lambda: protocol, connection, ssl=self._ssl
                )
        finally:
            self._share.arriving.discard(protocol)
