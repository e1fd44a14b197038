"""One-byte messages between a worker and its supervisor, over a pipe.

The end of the file tells either side that the other is gone.
"""

from __future__ import annotations

import contextlib
import os
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import BaseContext

    from typing_extensions import Self


LONGEST_MESSAGE = 64
"""Bytes of a message; more is no message of any version of this package."""
MOST_MESSAGES_AT_ONCE = 64
"""Messages heard in one look, so that a worker that never falls silent holds up nobody."""


class Said(Enum):
    """What a worker says."""

    READY = b"r"
    LIMIT = b"l"
    """It has answered as many requests as it may."""
    DRAINING = b"d"
    """It accepts nothing new."""
    UNKNOWN = b""
    """Something that means nothing here."""

    @classmethod
    def _missing_(cls, value: object) -> Said:
        del value
        return cls.UNKNOWN


class Told(Enum):
    """What a worker is told."""

    DRAIN = b"d"
    DRAIN_AND_TELL = b"t"
    """To drain, and then to tell what has grown since the fork."""
    GONE = b""
    """The supervisor has ended."""


class SupervisorEnd:
    """The supervisor's end, which never waits: not for the rest of a message either.

    Args:
        connection: its end of the pipe.

    Attributes:
        open: whether the worker may still say something.
    """

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self.connection = connection
        self.open = True
        if os.name == "posix":
            os.set_blocking(connection.fileno(), False)

    def heard(self) -> list[Said]:
        """Return what the worker has said since the last call, without waiting.

        What is no message is `Said.UNKNOWN`; nothing is heard after one that is cut short or too
        long, because where the next begins is unknown.
        """
        messages: list[Said] = []
        try:
            while self.open and len(messages) < MOST_MESSAGES_AT_ONCE and self.connection.poll():
                messages.append(Said(self.connection.recv_bytes(LONGEST_MESSAGE)))
        except (EOFError, ConnectionError):
            self.open = False
        except OSError:
            self.open = False
            messages.append(Said.UNKNOWN)
        return messages

    def drain(self, *, tell: bool = False) -> None:
        """Tell the worker to drain.

        Args:
            tell: and to tell what has grown.
        """
        with contextlib.suppress(OSError):
            self.connection.send_bytes((Told.DRAIN_AND_TELL if tell else Told.DRAIN).value)

    def close(self) -> None:
        """Close this end."""
        self.connection.close()


class WorkerEnd:
    """The worker's end; can be sent to a worker that is being started.

    Args:
        connection: its end of the pipe.
    """

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self.connection = connection

    def say(self, message: Said) -> None:
        """Say something; a supervisor that is gone is noticed by `told`."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(message.value)

    def told(self) -> Told | None:
        """Return the next thing the worker was told, without waiting."""
        try:
            if not self.connection.poll():
                return None
            return Told(self.connection.recv_bytes())
        except (EOFError, OSError):
            return Told.GONE
        except ValueError:
            return None

    def close(self) -> None:
        """Close this end."""
        self.connection.close()


class Link:
    """Both ends.

    Args:
        supervisor: stays here.
        worker: goes to the worker.
    """

    def __init__(self, supervisor: SupervisorEnd, worker: WorkerEnd) -> None:
        self.supervisor = supervisor
        self.worker = worker

    @classmethod
    def create(cls, context: BaseContext) -> Self:
        """Make both ends for a worker of this start method."""
        ours, theirs = context.Pipe()
        return cls(SupervisorEnd(ours), WorkerEnd(theirs))
