"""What systemd, and whoever speaks as it does, gives a service and is told by it.

The protocols of sd_listen_fds(3) and sd_notify(3): listening sockets as descriptors from 3 on, and
datagrams to a Unix socket.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.policy import SERVING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litellm_resilience.supervisor.loop import Supervisor
    from litellm_resilience.supervisor.scoreboard import Scoreboard

FIRST_DESCRIPTOR = 3
FEEDS_PER_TIMEOUT = 3
"""How often the watchdog is fed in the time after which it bites."""
VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
)


@dataclass(frozen=True)
class Given:
    """What a service manager gave this process.

    Args:
        descriptors: of sockets to listen on.
        address: where it is told how the service does; None if nobody asks.
        watchdog: it restarts a service that is silent for so many seconds; None if it does not.
    """

    descriptors: tuple[int, ...] = ()
    address: str | None = None
    watchdog: float | None = None

    def sockets(self) -> list[socket.socket]:
        """Return the sockets to listen on; to be called once."""
        found = [socket.socket(fileno=number) for number in self.descriptors]
        for each in found:
            each.set_inheritable(False)
        return found


def given() -> Given:
    """Return what the environment says that a service manager gave this process.

    Raises:
        ValueError: it makes no sense.
    """
    address = os.environ.get("NOTIFY_SOCKET") or None
    if address is not None and not address.startswith(("/", "@")):
        raise ValueError(f"NOTIFY_SOCKET {address!r} is not the address of a Unix socket.")
    return Given(_descriptors(), address, _watchdog() if address else None)


def forget() -> None:
    """Remove what concerns this process alone from what its children inherit."""
    for name in VARIABLES:
        os.environ.pop(name, None)


def _descriptors() -> tuple[int, ...]:
    if _number("LISTEN_PID") != os.getpid():
        return ()
    found = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + (_number("LISTEN_FDS") or 0))
    for number in found:
        if not _listens(number):
            raise ValueError(
                f"LISTEN_FDS names descriptor {number}, which is no socket that listens."
            )
    return tuple(found)


def _listens(descriptor: int) -> bool:
    try:
        copy = socket.socket(fileno=os.dup(descriptor))
    except (OSError, OverflowError):
        return False
    with copy:
        return bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _watchdog() -> float | None:
    microseconds = _number("WATCHDOG_USEC")
    if not microseconds or _number("WATCHDOG_PID") not in {None, os.getpid()}:
        return None
    return microseconds / 1e6


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    if not value:
        return None
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"{name} {value!r} is not a whole number.")
    return int(value)


class Notifier:
    """Tells the service manager how the service does; a service of the supervisor.

    What cannot be told now, because the manager does not read, is told later.

    Args:
        address: of the manager's socket; abstract if it begins with "@".
        watchdog: seconds of silence after which it restarts the service; None for no watchdog.
        supervisor: of which it is told.
        board: where its workers are.
    """

    waitables: Sequence[Any] = ()

    def __init__(
        self, address: str, watchdog: float | None, supervisor: Supervisor, board: Scoreboard
    ) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._pause = None if watchdog is None else watchdog / FEEDS_PER_TIMEOUT
        self._supervisor = supervisor
        self._board = board
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._rolls = 0
        self._ready = self._stopping = False
        self._status = ""
        self._feed_at = 0.0

    def attend(self, now: float, inherited: Sequence[Any]) -> None:
        """Tell what has changed, and feed the watchdog while a worker serves.

        Args:
            now: seconds of the supervisor's clock.
            inherited: unused, nothing is forked here.
        """
        del inherited
        serving = sum(row.state in SERVING for _, row in self._board.living())
        if self._supervisor.ending:
            self._stopping = self._stopping or self._say("STOPPING=1")
        else:
            self._tell_of_rolls()
            if serving and not self._ready and not self._supervisor.rolling:
                self._ready = self._say("READY=1")
        self._tell_status(serving)
        alive = serving or self._supervisor.ending
        if self._pause is not None and alive and now >= self._feed_at and self._say("WATCHDOG=1"):
            self._feed_at = now + self._pause

    def _tell_of_rolls(self) -> None:
        rolls = self._supervisor.rolls
        if rolls != self._rolls:
            # The manager compares this with the time of its signal.
            reloading = f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
            if self._say(reloading):
                self._rolls, self._ready = rolls, False

    def _tell_status(self, serving: int) -> None:
        doing = self._supervisor.ending or ("rolling" if self._supervisor.rolling else "")
        status = f"{serving} of {self._board.totals.target} workers serve"
        status = f"{status}, {doing}" if doing else status
        if status != self._status and self._say(f"STATUS={status}"):
            self._status = status

    def _say(self, message: str) -> bool:
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close what belongs to the supervisor."""
        self._socket.close()

    def end(self) -> None:
        """End with the supervisor."""
        self.close()
