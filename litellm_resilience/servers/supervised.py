"""Puts our supervisor where `uvicorn.run` would start its own, or serve in this process.

`uvicorn.run` itself is left to uvicorn, so its configuration is what the installed version makes of
the arguments: it looks up `Multiprocess` and `Server` in its own module when it is called.
"""

from __future__ import annotations

import functools
import importlib
import socket
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from uvicorn.server import Server

from litellm_resilience.repairs import metric_places, metrics, registry
from litellm_resilience.repairs.base import (
    Outcome,
    require,
    require_async,
)
from litellm_resilience.servers import inheritance
from litellm_resilience.status.services import Visibility, services
from litellm_resilience.supervisor import template
from litellm_resilience.supervisor.child import expect_children
from litellm_resilience.supervisor.jitter import JitteredLimit
from litellm_resilience.supervisor.journal import Journal
from litellm_resilience.supervisor.launch import Forking, Spawning
from litellm_resilience.supervisor.limits import Recycling
from litellm_resilience.supervisor.loop import Plan, Supervisor
from litellm_resilience.supervisor.policy import Settings
from litellm_resilience.supervisor.preload import share_memory
from litellm_resilience.supervisor.scoreboard import Scoreboard
from litellm_resilience.supervisor.title import name_process

if TYPE_CHECKING:
    import logging

    from uvicorn.config import Config

    from litellm_resilience.repairs.base import Changes
    from litellm_resilience.supervisor.environment import ImportReads
    from litellm_resilience.supervisor.launch import Launcher


@dataclass(frozen=True)
class Supervision:
    """How workers are to be supervised.

    Args:
        settings: when they are replaced or killed.
        recycling: their limits, but for the request limit, which uvicorn is given.
        preload: fork workers from this process if that is safe.
        reads: what modules have read of the environment, if that was watched.
        visibility: where the supervisor can be asked.
        preload_modules: names of modules to import before workers are forked.
        keep_helpers: names of processes that may outlive the worker that started them.
        given: the names of the options among these that somebody has set.
    """

    settings: Settings = field(default_factory=Settings)
    recycling: Recycling = field(default_factory=Recycling)
    preload: bool = True
    reads: ImportReads | None = None
    visibility: Visibility = field(default_factory=Visibility)
    preload_modules: tuple[str, ...] = ()
    keep_helpers: frozenset[str] = field(default_factory=frozenset)
    given: tuple[str, ...] = ()

    def imports_done(self) -> None:
        """Note that what follows is serving: what it reads of the environment is not watched."""
        if self.reads is not None:
            self.reads.stop()

    def wanted(self, arguments: dict[str, Any]) -> bool:
        """Say whether `uvicorn.run` with these arguments should be supervised.

        One worker without a limit serves in the command's own process, as ever, unless somebody
        wants to ask its supervisor.
        """
        limited = arguments.get("limit_max_requests") is not None or self.recycling.any
        visible = self.visibility != Visibility()
        several = (arguments.get("workers") or 1) > 1
        return not arguments.get("reload") and (several or limited or visible)


def outcome() -> Outcome:
    """Say whether workers can be supervised on this uvicorn."""
    effect = "a replacement serves before its predecessor drains"
    return registry.server_outcome(registry.SUPERVISOR, _probe, effect)


def _probe() -> None:
    require(importlib.import_module("uvicorn.main"), "Multiprocess", "Server")
    require(importlib.import_module("uvicorn.config").Config, "bind_socket")
    require_async(Server, "startup", "self", "sockets")
    require_async(Server, "on_tick", "self", "counter")
    require_async(Server, "shutdown", "self", "sockets")


class Host(template.Host, Protocol):
    """What is to be served, as far as the supervisor needs to know."""

    def log(self) -> logging.Logger:
        """Return where the events of workers are written."""

    def for_template(self) -> Host:
        """Return a host for a fresh process, to be pickled."""


def intercept(changes: Changes, supervision: Supervision, host: Host) -> None:
    """Supervise whatever `uvicorn.run` starts from now on.

    Args:
        changes: where to note what is replaced.
        supervision: how workers are to be supervised.
        host: what is to be served.
    """
    main = importlib.import_module("uvicorn.main")
    stand_in = functools.partial(_Supervised, supervision, host)
    changes.replace(main, "Multiprocess", stand_in)
    changes.replace(main, "Server", stand_in)


class _Supervised:
    """Stands for `uvicorn.supervisors.Multiprocess`, and for `uvicorn.Server` with one worker."""

    started = True

    def __init__(
        self,
        supervision: Supervision,
        host: Host,
        config: Config,
        target: Any = None,
        sockets: list[socket.socket] | None = None,
    ) -> None:
        del target
        self._how = supervision
        self._host = host
        self._config = config
        self._sockets = sockets

    def run(self) -> None:
        """Supervise until asked to stop."""
        expect_children()
        name_process("super")
        sockets = self._sockets or [self._config.bind_socket()]
        _send_without_delay(sockets)
        workers = self._config.workers
        log = self._host.log()
        journal = Journal(log)
        launcher, board, obstacle = self._launching(workers, journal)
        board.totals.metrics_place = metric_places.take()
        board.totals.start_method = launcher.method
        journal.supervising(workers, launcher.method, obstacle)
        beside = services(
            self._how.visibility, self._config, launcher, board, journal=journal, log=log
        )
        plan = Plan(
            workers,
            self._how.settings,
            self._recycling(),
            registry.counters,
            functools.partial(metrics.forget, board),
            self._how.keep_helpers,
            registry.held,
        )
        status = Supervisor(
            self._config, sockets, plan, launcher, journal, board=board, services=beside
        ).run()
        if status:
            sys.exit(status)

    def _launching(self, workers: int, journal: Journal) -> tuple[Launcher, Scoreboard, str | None]:
        """Choose how workers are started: forked from here, from a template, or spawned.

        Returns:
            What starts them, where they write, and why they are not forked from here.
        """
        obstacle = self._host.preload(workers) if self._how.preload else "--no_preload"
        if obstacle is None:
            share_memory()
            launcher = Forking(self._host.own)
            return launcher, Scoreboard.for_workers(launcher.context, workers), None
        inheritance.stop()
        spawning = Spawning()
        board = Scoreboard.for_workers(spawning.context, workers)
        if self._how.preload and sys.platform == "linux":
            journal.loading_template(obstacle)
            loaded = template.Template(self._host.for_template(), self._config, workers, board)
            failure = loaded.load(self._how.settings.boot_timeout)
            if failure is None:
                return loaded, board, obstacle
            obstacle = f"{obstacle}, and {failure}"
        return spawning, board, obstacle

    def _recycling(self) -> Recycling:
        limit = self._config.limit_max_requests
        jitter = getattr(self._config, "limit_max_requests_jitter", 0)
        if isinstance(limit, JitteredLimit):
            jitter, limit = limit.jitter, limit.least
        return replace(self._how.recycling, requests=limit, requests_jitter=jitter)


def _send_without_delay(sockets: list[socket.socket]) -> None:
    """Set TCP_NODELAY, which accepted connections inherit.

    asyncio sets it only on sockets that were made with a protocol number, and uvicorn makes the
    one that workers share without: a reply in two parts then takes 40 ms longer.
    """
    for listener in sockets:
        if listener.family in {socket.AF_INET, socket.AF_INET6}:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
