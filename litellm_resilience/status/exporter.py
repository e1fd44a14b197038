"""Metrics and health on ports of their own, from a process of their own.

The supervisor forks, so it must not have the threads that an HTTP server may need, and it must not
wait for a client that is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.server import Server

from litellm_resilience.status.health import Health
from litellm_resilience.supervisor.child import default_signals

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from litellm_resilience.supervisor.launch import Launcher
    from litellm_resilience.supervisor.scoreboard import Scoreboard

RESTART_PAUSE = 10.0
"""Seconds before an exporter that has ended is started again, and a taken port is tried again."""
LONGEST_MESSAGE = 4096
"""Bytes of what an exporter says."""
DRAIN = "drain"
BACKLOG = 128
"""Clients that may wait to be accepted."""


@dataclass(frozen=True)
class Offer:
    """What is served beside the proxy, and where.

    Args:
        host: the address to listen on.
        metrics_port: of Prometheus metrics and health; None for none.
        health_port: of health only; None for none.
        drain_delay: seconds from a request for `/drain` to the drain; None if there is no `/drain`.
    """

    host: str
    metrics_port: int | None = None
    health_port: int | None = None
    drain_delay: float | None = None

    @property
    def ports(self) -> list[int]:
        """Where something is."""
        return [port for port in (self.metrics_port, self.health_port) if port is not None]

    def place(self, port: int) -> str:
        """Return what is at a port, and its address, in words."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if port == self.metrics_port:
            return f"metrics at http://{host}:{port}/metrics"
        return f"health at http://{host}:{port}/ready"


class Exporter:
    """The supervisor's view of the exporter.

    Args:
        launcher: how processes are started here.
        board: what to export.
        offer: what to serve, and where.
        drain: called when `/drain` was asked for.
        log: told what is served, and when the exporter has ended.
    """

    def __init__(
        self,
        launcher: Launcher,
        board: Scoreboard,
        offer: Offer,
        drain: Callable[[float], object],
        log: logging.Logger,
    ) -> None:
        self._launcher = launcher
        self._board = board
        self._offer = offer
        self._drain = drain
        self._log = log
        self._process: BaseProcess | None = None
        self._lifeline: Connection[Any, Any] | None = None
        self._start_at = 0.0
        self._said: dict[int, str | None] = {}

    @property
    def waitables(self) -> list[Any]:
        """What becomes readable when the exporter says something or has ended."""
        process = [] if self._process is None else [self._process.sentinel]
        return process if self._lifeline is None else [*process, self._lifeline]

    def attend(self, now: float, inherited: Sequence[Any]) -> None:
        """Start the exporter, or start it again a while after it has ended; hear what it says."""
        self._hear(now)
        if self._process is not None and self._process.exitcode is not None:
            self._warn(f"The metrics exporter has ended with status {self._process.exitcode}")
            self._forget()
            self._start_at = now + RESTART_PAUSE
        if self._process is None and now >= self._start_at:
            self._start_at = now + RESTART_PAUSE
            self._start(inherited)

    def _start(self, inherited: Sequence[Any]) -> None:
        try:
            self._lifeline, theirs = self._launcher.context.Pipe()
            if os.name == "posix":
                os.set_blocking(self._lifeline.fileno(), False)
            with theirs:
                arguments = (theirs, self._board, self._offer)
                self._process = self._launcher.start_beside(serve, arguments, inherited)
        except Exception as error:
            self._warn(f"The metrics exporter could not be started: {error}")
            self._forget()

    def _hear(self, now: float) -> None:
        try:
            while self._lifeline is not None and self._lifeline.poll():
                said = json.loads(self._lifeline.recv_bytes(LONGEST_MESSAGE))
                if said == [DRAIN]:
                    self._drain(now)
                else:
                    self._note(*said)
        except (EOFError, OSError):
            self.close()

    def _note(self, port: int, problem: str | None) -> None:
        """Log what has become of a port, unless that is known."""
        place = self._offer.place(port)
        if self._said.get(port, "") == problem:
            return
        self._said[port] = problem
        if problem is None:
            self._log.info("%s", place[0].upper() + place[1:])
        else:
            self._log.warning(
                "Cannot listen for %s: %s; trying again every %g s", place, problem, RESTART_PAUSE
            )

    def _warn(self, what: str) -> None:
        self._log.warning("%s; next attempt in %g s", what, RESTART_PAUSE)

    def _forget(self) -> None:
        if self._process is not None:
            self._process.close()
        self.close()
        self._process = None

    def close(self) -> None:
        """Let go of the exporter, which ends when everybody has."""
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None

    def end(self) -> None:
        """End the exporter."""
        self.close()
        if self._process is not None:
            self._process.terminate()
            self._process.join(RESTART_PAUSE)


def serve(lifeline: Connection[Any, Any], board: Scoreboard, offer: Offer) -> None:
    """Serve until the supervisor ends; the process's main function.

    Args:
        lifeline: its end of file says that the supervisor has ended.
        board: what to export.
        offer: what to serve, and where.
    """
    default_signals()
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    asyncio.run(_serve(lifeline, board, offer))


def _end_with(lifeline: Connection[Any, Any]) -> None:
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(0)


async def _serve(lifeline: Connection[Any, Any], board: Scoreboard, offer: Offer) -> None:
    def say(*what: Any) -> None:
        with contextlib.suppress(OSError):  # a supervisor that is gone ends this process anyway
            lifeline.send_bytes(json.dumps(what).encode())

    drain = None if offer.drain_delay is None else partial(say, DRAIN)
    health = Health(board, drain, offer.drain_delay or 0.0)
    applications = {}
    if offer.health_port is not None:
        applications[offer.health_port] = health.beside()
    if offer.metrics_port is not None:
        applications[offer.metrics_port] = health.beside(_metrics(board))
    await asyncio.gather(
        *(_serve_at(offer.host, port, each, say) for port, each in applications.items())
    )


def _metrics(board: Scoreboard) -> Any:
    from prometheus_client import CollectorRegistry, make_asgi_app

    from litellm_resilience.status.metrics import ScoreboardCollector

    registry = CollectorRegistry()
    registry.register(ScoreboardCollector(board))
    return make_asgi_app(registry)


async def _serve_at(host: str, port: int, application: Any, say: Callable[..., None]) -> None:
    """Serve on a port as soon as it is free; say whenever it is not, and when it is."""
    while True:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            say(port, (error.strerror or str(error)).partition(" (while")[0])
            await asyncio.sleep(RESTART_PAUSE)
        else:
            break
    say(port, None)
    config = Config(
        application,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
    )
    await _Server(config).serve(sockets=[listener])


class _Server(Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: nothing that is served here needs to be finished."""
        yield
