"""How a worker and its supervisor talk: one-byte messages over a pipe.

The end of the file tells either side that the other is gone.
"""

from __future__ import annotations

import contextlib
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import BaseContext

    from typing_extensions import Self


class Said(Enum):
    """What a worker says."""

    READY = b"r"
    LIMIT = b"l"
    """It has answered as many requests as it may."""
    DRAINING = b"d"
    """It accepts nothing new."""


class Told(Enum):
    """What a worker is told."""

    DRAIN = b"d"
    GONE = b""
    """The supervisor has ended."""


class SupervisorEnd:
    """The supervisor's end.

    Args:
        connection: its end of the pipe.

    Attributes:
        open: whether the worker may still say something.
    """

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self.connection = connection
        self.open = True

    def heard(self) -> list[Said]:
        """Return what the worker has said since the last call, without waiting."""
        messages = []
        try:
            while self.open and self.connection.poll():
                messages.append(Said(self.connection.recv_bytes()))
        except (EOFError, OSError):
            self.open = False
        return messages

    def drain(self) -> None:
        """Tell the worker to drain."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(Told.DRAIN.value)

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
