"""gunicorn's workers: gunicorn stays the master; its workers drain and write to the scoreboard.

LiteLLM has gunicorn fork its workers from the command's own process.
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
import time
import uuid
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs import metric_places, metrics, registry
from litellm_resilience.repairs.base import Outcome, PatchState, require
from litellm_resilience.servers import application, inheritance, notices
from litellm_resilience.servers.notices import NO_LIMIT, warn, warn_of_ineffective
from litellm_resilience.servers.warmup import warm_up
from litellm_resilience.supervisor import helpers, scoreboard
from litellm_resilience.supervisor.blocking import Watch
from litellm_resilience.supervisor.drain import TICK, DrainingServer
from litellm_resilience.supervisor.figures import Figures
from litellm_resilience.supervisor.policy import WorkerState
from litellm_resilience.supervisor.preload import share_memory
from litellm_resilience.supervisor.scoreboard import Scoreboard
from litellm_resilience.supervisor.title import name_process, worker_name

if TYPE_CHECKING:
    import logging
    import socket
    from collections.abc import Callable, Collection
    from types import ModuleType

    from litellm_resilience.repairs.base import Changes
    from litellm_resilience.servers.supervised import Supervision
    from litellm_resilience.supervisor.policy import Settings


EFFECTIVE = {"worker_drain_timeout", "keep_worker_helpers", "slow_callback"}
"""Of the options for supervised workers."""


def intercept(changes: Changes, jitter: int | None, supervision: Supervision) -> None:
    """Prepare whatever gunicorn starts from now on.

    Args:
        changes: where to note what is replaced.
        jitter: additional requests a worker may serve, at most; gunicorn draws it.
        supervision: of which only the options in `EFFECTIVE` apply.
    """
    from gunicorn.app.base import BaseApplication

    original: Callable[..., Any] = BaseApplication.run

    def run(self: Any) -> Any:
        supervision.imports_done()
        warm_up(application.create_app(), self.cfg.workers)
        give_own(self.cfg, notices.log())
        share_memory()
        if jitter is not None and not self.cfg.max_requests:
            warn(NO_LIMIT)
        elif jitter is not None:
            self.cfg.set("max_requests_jitter", jitter)
        warn_of_ineffective("gunicorn", set(supervision.given) - EFFECTIVE)
        end_helpers(self.cfg, supervision.keep_helpers)
        if outcome().state is PatchState.APPLIED:
            _announce_drain(changes, supervision.settings)
            keep_scoreboard(self.cfg)
        return original(self)

    changes.replace(BaseApplication, "run", run)


def outcome() -> Outcome:
    """Say whether gunicorn's workers can be given an announced drain."""
    effect = "a retiring gunicorn worker announces its end"
    try:
        return registry.server_outcome(
            registry.GUNICORN_DRAIN, lambda: require(workers_module(), "Server"), effect
        )
    except ImportError:
        return Outcome(PatchState.NOT_NEEDED, "gunicorn is not installed")


def workers_module() -> ModuleType:
    """Return the module with the workers that LiteLLM has gunicorn use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("uvicorn.workers")


def _announce_drain(changes: Changes, settings: Settings) -> None:
    """Give gunicorn's uvicorn workers, which are forked later, a server that drains.

    uvicorn's own starves gunicorn's heartbeat while it waits for the last replies; the draining
    one keeps ticking.
    """

    class TimedServer(GunicornServer):
        drain_timeout = settings.drain_timeout
        slow_callback = settings.slow_callback

    changes.replace(workers_module(), "Server", TimedServer)


class GunicornServer(DrainingServer):
    """A draining server that writes its row of the scoreboard, if its worker has one."""

    held = staticmethod(registry.held)
    slow_callback = 0.0
    _figures: Figures | None = None
    _watch: Watch | None = None
    _row: scoreboard.Row | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does."""
        await super().startup(sockets=sockets)
        entered = scoreboard.entered()
        if self.started and entered is not None:
            board, slot = entered
            self._row = board.row(slot)
            self._row.ready_at = time.monotonic()
            self._row.state = WorkerState.SERVING
            board.totals.boot.observe(self._row.ready_at - self._row.started_at)
            self._figures = Figures(self._row, TICK)
            name = worker_name(self._row.number, self._row.pid).capitalize()
            log = notices.log()
            self._watch = Watch.begin(self._row, self.slow_callback, TICK, log, name)

    async def on_tick(self, counter: int) -> bool:
        """Write the row."""
        if self._figures is not None:
            self._figures.record(self.server_state, registry.counters(), self.look(counter))
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain."""
        if self._row is not None:
            self._row.state = WorkerState.DRAINING
        if self._watch is not None:
            self._watch.end()
        await super().shutdown(sockets=sockets)


def keep_scoreboard(cfg: Any) -> Scoreboard:
    """Give each worker that gunicorn forks a row of one scoreboard.

    The master claims the row before it forks and releases it when it has reaped the worker.

    Args:
        cfg: gunicorn's settings, whose hooks are extended.
    """
    board = Scoreboard.for_workers(multiprocessing.get_context("fork"), cfg.workers)
    board.totals.target = cfg.workers
    board.totals.metrics_place = metric_places.take()
    slots: dict[int, int] = {}

    def pre_fork(_: Any, worker: Any) -> None:
        with suppress(BlockingIOError):  # without a row it serves as well
            slots[worker.age] = slot = board.claim()
            row = board.row(slot)
            row.number, row.started_at = worker.age, time.monotonic()
            board.totals.started += 1

    def post_fork(_: Any, worker: Any) -> None:
        if worker.age in slots:
            slot = slots[worker.age]
            row = board.row(slot)
            row.pid = os.getpid()
            row.request_limit = worker.max_requests if cfg.max_requests else 0
            scoreboard.enter(board, slot)

    def child_exit(_: Any, worker: Any) -> None:
        slot = slots.pop(worker.age, None)
        if slot is not None:
            metrics.forget(board, slot)
            board.release(slot)

    for hook in (pre_fork, post_fork, child_exit):
        cfg.set(hook.__name__, _both(getattr(cfg, hook.__name__), hook))
    return board


def give_own(cfg: Any, log: logging.Logger) -> None:
    """Have each forked worker get its own of what the master has made once.

    Args:
        cfg: gunicorn's settings, whose hook is extended.
        log: where what fails is reported.
    """
    inheritance.prepare(log)

    def post_fork(_: Any, worker: Any) -> None:
        inheritance.make_own(f"worker {worker.age}", log)

    cfg.set("post_fork", _both(cfg.post_fork, post_fork))


def end_helpers(cfg: Any, keep: Collection[str]) -> None:
    """Have what a worker has started end with it, at the latest with gunicorn's master.

    The master does not become a subreaper: it would take an orphan that exits with status 3 for a
    worker that could not boot, and end.

    Args:
        cfg: gunicorn's settings, whose hooks are extended.
        keep: names of helpers that may outlive their worker.
    """
    run = uuid.uuid4().hex
    marks: dict[int, str] = {}

    def pre_fork(_: Any, worker: Any) -> None:
        marks[worker.age] = f"{run}.{worker.age}"

    def post_fork(_: Any, worker: Any) -> None:
        helpers.mark_helpers(marks[worker.age])
        name_process(f"w{worker.age}")

    def child_exit(arbiter: Any, worker: Any) -> None:
        mark = marks.pop(worker.age, None)
        for helper in helpers.end_marked(mark.__eq__, keep) if mark is not None else ():
            arbiter.log.warning(
                "Worker %d (pid %s) left %s (pid %d): ended it",
                worker.age,
                worker.pid,
                helper.name,
                helper.pid,
            )

    def on_exit(_: Any) -> None:
        # Of workers that have ended too: whoever was just being executed could not be asked then.
        helpers.end_marked(lambda mark: mark.startswith(run), keep)

    for hook in (pre_fork, post_fork, child_exit, on_exit):
        cfg.set(hook.__name__, _both(getattr(cfg, hook.__name__), hook))


def _both(first: Callable[..., Any], second: Callable[..., None]) -> Any:
    def with_worker(arbiter: Any, worker: Any) -> None:
        first(arbiter, worker)
        second(arbiter, worker)

    def alone(arbiter: Any) -> None:
        first(arbiter)
        second(arbiter)

    return alone if len(inspect.signature(second).parameters) == 1 else with_worker
