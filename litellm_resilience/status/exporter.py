"""Prometheus metrics on a port of their own, from a process of their own.

The supervisor forks, so it must not have the threads that an HTTP server needs, and it must not
wait for a client that is slow.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.child import default_signals

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from litellm_resilience.supervisor.launch import Launcher
    from litellm_resilience.supervisor.scoreboard import Scoreboard

RESTART_PAUSE = 10.0
"""Seconds before an exporter that has ended is started again."""


class MetricsExporter:
    """The supervisor's view of the exporter.

    Args:
        launcher: how processes are started here.
        board: what to export.
        host: the address to listen on.
        port: the port.
        log: told when the exporter has ended.
    """

    def __init__(
        self, launcher: Launcher, board: Scoreboard, host: str, port: int, log: logging.Logger
    ) -> None:
        self._launcher = launcher
        self._board = board
        self._address = (host, port)
        self._log = log
        self._process: BaseProcess | None = None
        self._lifeline: Connection[Any, Any] | None = None
        self._start_at = 0.0

    @property
    def waitables(self) -> list[Any]:
        """What becomes readable when the exporter has ended."""
        return [] if self._process is None else [self._process.sentinel]

    def attend(self, now: float, inherited: Sequence[Any]) -> None:
        """Start the exporter, or start it again a while after it has ended."""
        if self._process is not None and self._process.exitcode is not None:
            self._warn(f"has ended with status {self._process.exitcode}")
            self._forget()
            self._start_at = now + RESTART_PAUSE
        if self._process is None and now >= self._start_at:
            self._start_at = now + RESTART_PAUSE
            self._start(inherited)

    def _start(self, inherited: Sequence[Any]) -> None:
        try:
            theirs, self._lifeline = self._launcher.context.Pipe(duplex=False)
            with theirs:
                arguments = (theirs, self._board, *self._address)
                self._process = self._launcher.start_beside(serve, arguments, inherited)
        except Exception as error:
            self._warn(f"could not be started: {error}")
            self._forget()

    def _warn(self, what: str) -> None:
        self._log.warning(
            "The metrics exporter on %s:%d %s; next attempt in %g s",
            *self._address,
            what,
            RESTART_PAUSE,
        )

    def _forget(self) -> None:
        if self._process is not None:
            self._process.close()
        self.close()
        self._process = self._lifeline = None

    def close(self) -> None:
        """Let go of the exporter, which ends when everybody has."""
        if self._lifeline is not None:
            self._lifeline.close()

    def end(self) -> None:
        """End the exporter."""
        self.close()
        if self._process is not None:
            self._process.terminate()
            self._process.join(RESTART_PAUSE)


def serve(lifeline: Connection[Any, Any], board: Scoreboard, host: str, port: int) -> None:
    """Serve metrics until the supervisor ends; the process's main function.

    Args:
        lifeline: its end of file says that the supervisor has ended.
        board: what to export.
        host: the address to listen on.
        port: the port.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    from litellm_resilience.status.metrics import ScoreboardCollector

    default_signals()
    registry = CollectorRegistry()
    registry.register(ScoreboardCollector(board))
    start_http_server(port, addr=host, registry=registry)
    with contextlib.suppress(EOFError):
        lifeline.recv_bytes()
