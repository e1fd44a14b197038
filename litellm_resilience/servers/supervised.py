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
    Changes,
    IncompatibleError,
    Outcome,
    PatchState,
    require,
    require_async,
)
from litellm_resilience.servers import inheritance
from litellm_resilience.status.services import Visibility, services
from litellm_resilience.status.succession import Succession
from litellm_resilience.supervisor import commands, growth, service_manager, takeover, template
from litellm_resilience.supervisor.accept import SETTINGS
from litellm_resilience.supervisor.child import expect_children
from litellm_resilience.supervisor.config_watch import ConfigWatch
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
    from collections.abc import Callable

    from uvicorn.config import Config

    from litellm_resilience.supervisor.environment import ImportReads
    from litellm_resilience.supervisor.launch import Launcher
    from litellm_resilience.supervisor.loop import Service


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
        watched_config: path of the config file whose change is a reason to reload; None for none.
        given: the names of the options among these that somebody has set.
    """

    settings: Settings = field(default_factory=Settings)
    recycling: Recycling = field(default_factory=Recycling)
    preload: bool = True
    reads: ImportReads | None = None
    visibility: Visibility = field(default_factory=Visibility)
    preload_modules: tuple[str, ...] = ()
    keep_helpers: frozenset[str] = field(default_factory=frozenset)
    watched_config: str | None = None
    given: tuple[str, ...] = ()

    def imports_done(self) -> None:
        """Note that what follows is serving: what it reads of the environment is not watched."""
        if self.reads is not None:
            self.reads.stop()

    def wanted(self, arguments: dict[str, Any]) -> bool:
        """Say whether `uvicorn.run` with these arguments should be supervised.

        One worker without a limit serves in the command's own process, as ever, unless somebody
        wants to ask its supervisor or its config file is watched.
        """
        limited = arguments.get("limit_max_requests") is not None or self.recycling.any
        visible = self.visibility != Visibility() or self.watched_config is not None
        several = (arguments.get("workers") or 1) > 1
        upgraded = takeover.given() is not None
        managed = service_manager.given() != service_manager.Given()
        ours = several or limited or visible or upgraded or managed
        return ours and not arguments.get("reload")


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


def accept_outcome() -> Outcome:
    """Say whether workers can take connections by share on this uvicorn."""
    effect = "a worker takes connections by share, not all that wait"
    return registry.server_outcome(registry.BALANCED_ACCEPT, _probe_accept, effect)


def _probe_accept() -> None:
    keywords = (set(each) for each in Server.startup.__code__.co_consts if isinstance(each, tuple))
    if SETTINGS not in keywords:
        raise IncompatibleError("uvicorn creates its servers in a way that is not known")


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
    manager = service_manager.given()
    service_manager.forget()
    old = takeover.given()
    passed = old.sockets if old else manager.sockets()
    if passed:
        config = importlib.import_module("uvicorn.config").Config
        changes.replace(config, "bind_socket", lambda _: passed[0])
    stand_ins = Changes()
    stand_in = functools.partial(
        _Supervised, supervision, host, put_back=stand_ins.undo, manager=manager, passed=passed
    )
    stand_ins.replace(main, "Multiprocess", stand_in)
    stand_ins.replace(main, "Server", stand_in)
    changes.done(stand_ins.undo)


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
        *,
        put_back: Callable[[], object],
        manager: service_manager.Given,
        passed: list[socket.socket],
    ) -> None:
        del target
        self._how = supervision
        self._host = host
        self._put_back = put_back
        self._config = config
        self._manager = manager
        self._passed = passed
        self._sockets = passed or sockets

    def run(self) -> None:
        """Supervise until asked to stop."""
        # What is imported from now on, here and in workers, may look into uvicorn's own classes,
        # as sse-starlette does.
        self._put_back()
        expect_children()
        name_process("super")
        given = takeover.given()
        sockets = self._sockets or [self._config.bind_socket()]
        _send_without_delay(sockets)
        workers = self._config.workers
        log = self._host.log()
        if self._passed:
            self._config.port = _port(self._passed) or self._config.port
            where = [each.getsockname() for each in self._passed]
            by = f"process {given.pid}, to take its place" if given else "the service manager"
            log.info("Serves on what was passed by %s: %s", by, where)
        journal = Journal(log)
        accept = accept_outcome()
        if accept.state is PatchState.INCOMPATIBLE:
            log.warning("Connections are not spread evenly over the workers: %s.", accept.reason)
        launcher, board, obstacle = self._launching(workers, journal)
        board.totals.metrics_place = metric_places.take()
        board.totals.start_method = launcher.method
        journal.supervising(workers, launcher.method, obstacle)
        plan = Plan(
            workers,
            self._how.settings,
            self._recycling(),
            registry.counters,
            functools.partial(metrics.forget, board),
            self._how.keep_helpers,
            registry.held,
            balanced=accept.state is PatchState.APPLIED,
        )
        supervisor = Supervisor(self._config, sockets, plan, launcher, journal, board=board)
        others = self._others(supervisor, board, journal)
        beside = functools.partial(
            services,
            self._how.visibility,
            self._config,
            launcher,
            board,
            perform=functools.partial(commands.perform, supervisor, journal),
            journal=journal,
            log=log,
            others=others,
        )
        supervisor.services = [Succession(given, board, beside)] if given else beside()
        if status := supervisor.run():
            sys.exit(status)

    def _others(
        self, supervisor: Supervisor, board: Scoreboard, journal: Journal
    ) -> Callable[[], list[Service]]:
        """Return what makes the other services; the config is read before any worker does."""
        path, address, watchdog = (
            self._how.watched_config,
            self._manager.address,
            self._manager.watchdog,
        )
        watches: list[Service] = [ConfigWatch(path, supervisor, journal)] if path else []

        def make() -> list[Service]:
            if address is None:
                return watches.copy()
            return [*watches, service_manager.Notifier(address, watchdog, supervisor, board)]

        return make

    def _launching(self, workers: int, journal: Journal) -> tuple[Launcher, Scoreboard, str | None]:
        """Choose how workers are started: forked from here, from a template, or spawned.

        Returns:
            What starts them, where they write, and why they are not forked from here.
        """
        obstacle = self._host.preload(workers) if self._how.preload else "--no_preload"
        if obstacle is None:
            growth.note()
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


def _port(sockets: list[socket.socket]) -> int | None:
    """Return where sockets listen that are passed.

    LiteLLM's command chooses another port if its own is in use, as it is then.
    """
    addresses = [each.getsockname() for each in sockets]
    return next((address[1] for address in addresses if isinstance(address, tuple)), None)
