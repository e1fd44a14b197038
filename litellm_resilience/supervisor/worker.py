"""The worker process: it reports when it is ready or at its limit, and drains when told."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor import exit_hooks, growth, helpers, prctl, scoreboard
from litellm_resilience.supervisor.accept import Share, by_share
from litellm_resilience.supervisor.blocking import Watch
from litellm_resilience.supervisor.child import default_signals
from litellm_resilience.supervisor.drain import TICK, DrainingServer, announce, announced
from litellm_resilience.supervisor.figures import Answering, Figures
from litellm_resilience.supervisor.link import Said, Told
from litellm_resilience.supervisor.output import lossy_output
from litellm_resilience.supervisor.title import name_process, worker_name

if TYPE_CHECKING:
    import logging
    import socket
    from collections.abc import Callable, Collection
    from types import FrameType

    from uvicorn.config import Config

    from litellm_resilience.supervisor.figures import Held, SessionCounts
    from litellm_resilience.supervisor.link import WorkerEnd
    from litellm_resilience.supervisor.scoreboard import Scoreboard

STARTUP_FAILURE = 3
"""uvicorn's exit status for an application that did not start."""


@dataclass(frozen=True)
class Assignment:
    """What a worker needs to know; can be sent to a worker that is spawned.

    Args:
        number: identifies this worker.
        config: uvicorn's settings.
        sockets: the listening sockets, shared by all workers.
        link: to the supervisor.
        board: where all workers write about themselves.
        slot: the row that was claimed for this one.
        session_counts: returns what this process's shared session has been through.
        held: returns what this process has to do beside the requests whose tasks it is given.
        request_limit: answered requests after which it asks to be replaced; None for no limit.
        drain_timeout: seconds its drain may take while it is being recycled.
        keep_helpers: names of processes it starts that may outlive it.
        watch_replies: note how requests are answered.
        slow_callback: seconds; what blocks its event loop for longer is named; 0 for nothing.
        log: where that is named.
        balanced: whether it takes connections by share.
    """

    number: int
    config: Config
    sockets: list[socket.socket]
    link: WorkerEnd
    board: Scoreboard
    slot: int
    session_counts: Callable[[], SessionCounts]
    held: Callable[[Collection[Any] | None], Held]
    request_limit: int | None
    drain_timeout: float
    keep_helpers: frozenset[str]
    slow_callback: float
    watch_replies: bool
    log: logging.Logger
    balanced: bool


class WorkerServer(DrainingServer):
    """A server that keeps serving at its limit, until it is told to drain.

    Args:
        assignment: what it needs to know.
    """

    def __init__(self, assignment: Assignment) -> None:
        assignment.config.limit_max_requests = None
        super().__init__(assignment.config)
        self._keep_helpers = assignment.keep_helpers
        self.drain_timeout = assignment.drain_timeout
        self._link = assignment.link
        self._number = assignment.number
        self._slow_callback = assignment.slow_callback
        self._log = assignment.log
        self._row = assignment.board.row(assignment.slot)
        self._figures = Figures(self._row, TICK)
        self._watch: Watch | None = None
        self._share = Share(assignment.board, assignment.slot, self.server_state)
        self.arriving = self._share.arriving
        self._balanced = assignment.balanced
        self._totals = assignment.board.totals
        self._session_counts = assignment.session_counts
        self.held = assignment.held
        self._request_limit = assignment.request_limit
        self._watch_replies = assignment.watch_replies
        self._told_to_drain = False
        self._told_to_tell = False
        self._turns = False
        self._asked_early: tuple[int, FrameType | None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then say so."""
        watch = asyncio.create_task(self._end_if_abandoned())
        if self._watch_replies:
            self.config.loaded_app = Answering(self.config.loaded_app, self._row)
        try:
            with by_share(sockets if sockets and self._balanced else (), self._share):
                await super().startup(sockets=sockets)
        finally:
            watch.cancel()
        if self.started:
            prctl.end_with_parent(0)
            self._link.say(Said.READY)
            name = worker_name(self._number, os.getpid()).capitalize()
            self._watch = Watch.begin(self._row, self._slow_callback, TICK, self._log, name)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on SIGTERM and SIGINT as uvicorn does; before it is started, end at once.

        uvicorn would wait for the application's start-up, which may never come to its end. A SIGINT
        comes from the terminal and reaches the supervisor as well. Asked between its start-up and
        its first turn, uvicorn would end without any shutdown: here the first turn is told.
        """
        if self._turns:
            super().handle_exit(sig, frame)
        elif self.started:
            self._asked_early = (sig, frame)
        elif sig == signal.SIGTERM:
            _end(self._keep_helpers)

    async def on_tick(self, counter: int) -> bool:
        """Note that the loop turns, report the limit, obey the supervisor."""
        self._turns = True
        if self._asked_early is not None:
            super().handle_exit(*self._asked_early)
            self._asked_early = None
        state = self.server_state
        self._figures.record(state, self._session_counts(), self.look(counter))
        self._share.look()
        self._share.let_go(announced, announce)
        if self._request_limit is not None and state.total_requests >= self._request_limit:
            self._request_limit = None
            self._link.say(Said.LIMIT)
        if self._totals.memory_is_short:
            # uvicorn forgets it within a second once memory is not short any more.
            self._announce()
        told = self._link.told()
        if told in (Told.DRAIN, Told.DRAIN_AND_TELL):
            self._told_to_drain = True
            self._told_to_tell = told is Told.DRAIN_AND_TELL
        elif told is Told.GONE:
            self.should_exit = True
        return await super().on_tick(counter) or self._told_to_drain

    async def _end_if_abandoned(self) -> None:
        """End at once if the supervisor does before this worker has started."""
        while self._link.told() is not Told.GONE:  # noqa: ASYNC110 - another process writes
            await asyncio.sleep(TICK)
        _end(self._keep_helpers)

    def drained(self) -> None:
        """Tell what has grown, if it was asked for and memory is not short: to count costs some."""
        if self._told_to_tell and not self._totals.memory_is_short:
            self._row.growth = growth.told(scoreboard.GROWTH_LENGTH)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that nothing new is accepted, also when it was not the supervisor's idea.

        The signal that asked for it is answered by then. uvicorn would raise it again, which would
        end the process before its exit hooks.
        """
        self._link.say(Said.DRAINING)
        if self._watch is not None:
            self._watch.end()
        await super().shutdown(sockets=sockets)
        self._captured_signals.clear()


def run_spawned(assignment: Assignment) -> None:
    """Serve in a process that was started afresh."""
    default_signals()
    with lossy_output():
        assignment.config.configure_logging()
        try:
            serve(assignment)
        finally:
            helpers.end_own(assignment.keep_helpers)


def serve_forked(assignment: Assignment, own: Callable[[int], None]) -> None:
    """Serve in a process that was forked.

    Args:
        assignment: what the worker needs to know.
        own: called with the worker's row before it serves.
    """
    try:
        with exit_hooks.worker_hooks():
            own(assignment.slot)
            growth.begin()
            serve(assignment)
    finally:
        # After the hooks: they may need the query engine, say.
        helpers.end_own(assignment.keep_helpers)


def serve(assignment: Assignment) -> None:
    """Serve until told to drain, or until a limit or a signal ends it."""
    _dump_stacks_on_request()
    scoreboard.enter(assignment.board, assignment.slot)
    name_process(f"w{assignment.number}")
    helpers.mark_helpers()
    prctl.end_with_parent(signal.SIGTERM)
    keep = assignment.keep_helpers
    # uvicorn puts this back after its drain, and raises what has come.
    signal.signal(signal.SIGTERM, lambda *_: _end(keep))
    server = WorkerServer(assignment)
    server.run(sockets=assignment.sockets)
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _dump_stacks_on_request() -> None:
    """Print all threads' stacks on SIGQUIT, also when the event loop is blocked, and on a crash."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # stderr may be no real file
        faulthandler.enable()
        if hasattr(signal, "SIGQUIT"):
            faulthandler.register(signal.SIGQUIT)


def _end(keep: Collection[str]) -> None:
    helpers.end_own(keep)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)
