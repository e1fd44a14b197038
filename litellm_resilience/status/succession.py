"""What a new proxy does until the old one gives way."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.policy import SERVING
from litellm_resilience.supervisor.takeover import GO, READY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from litellm_resilience.supervisor.loop import Service
    from litellm_resilience.supervisor.scoreboard import Scoreboard
    from litellm_resilience.supervisor.takeover import Given


class Succession:
    """Says when all workers serve, and has the services as soon as the old proxy has not.

    A `Service` of the supervisor.

    Args:
        given: by the old proxy.
        board: says which workers serve.
        services: returns what is served in the old one's place.
    """

    def __init__(
        self, given: Given, board: Scoreboard, services: Callable[[], list[Service]]
    ) -> None:
        self._given = given
        self._board = board
        self._make = services
        self._services: list[Service] = []
        self._ready = False
        self._awaited = [given.first, given.old]

    @property
    def waitables(self) -> list[Any]:
        """What becomes readable when there is something to do."""
        return self._awaited + [each for service in self._services for each in service.waitables]

    def attend(self, now: float, inherited: Sequence[Any]) -> None:
        """Say that all workers serve; take the old one's place; end if the first has ended."""
        if not self._ready and self._all_serve():
            self._ready = True
            with contextlib.suppress(OSError):
                self._given.old.send(READY)
        if self._heard(self._given.old) == GO:
            self._given.taken = True
            self._services = self._make()
        if self._heard(self._given.first) == b"":
            os.kill(os.getpid(), signal.SIGTERM)
        for service in self._services:
            service.attend(now, inherited)

    def _all_serve(self) -> bool:
        ready = sum(row.state in SERVING for _, row in self._board.living())
        return ready >= self._board.totals.target

    def _heard(self, source: socket.socket) -> bytes | None:
        """Return what was newly said; empty when that process has ended; None for nothing."""
        if source not in self._awaited:
            return None
        try:
            said = source.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            said = b""
        if not said:
            self._awaited.remove(source)
        return said

    def close(self) -> None:
        """Close what belongs to the supervisor."""
        self._given.old.close()
        self._given.first.close()
        for service in self._services:
            service.close()

    def end(self) -> None:
        """End the services."""
        for service in self._services:
            service.end()
