"""The template: a fresh process that loads the application once and forks every worker.

Used where workers must not be forked from the command's own process. The supervisor sends an order
for each worker, with the descriptors it needs; the template answers with the worker's process id,
and later with its exit status. `multiprocessing.forkserver` in the standard library works alike.
"""

from __future__ import annotations

import contextlib
import errno
import math
import multiprocessing.connection
import os
import pickle
import signal
import socket
import time
from dataclasses import fields
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from litellm_resilience.supervisor import exit_hooks, growth
from litellm_resilience.supervisor.child import default_signals
from litellm_resilience.supervisor.launch import Forking, NotYetError, Spawning
from litellm_resilience.supervisor.link import WorkerEnd
from litellm_resilience.supervisor.output import lossy_output
from litellm_resilience.supervisor.preload import share_memory
from litellm_resilience.supervisor.title import name_process
from litellm_resilience.supervisor.worker import Assignment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.process import BaseProcess

    from uvicorn.config import Config

    from litellm_resilience.supervisor.launch import Launcher, WorkerProcess
    from litellm_resilience.supervisor.scoreboard import Scoreboard

READY, UNFIT, FORKED, REFUSED, ENDED = "ready", "unfit", "forked", "refused", "ended"
LONGEST_MESSAGE = 65536
"""Bytes; an order holds uvicorn's settings."""
MOST_DESCRIPTORS = 64
PASSED_OTHERWISE = frozenset({"board", "sockets", "link"})
"""Of an assignment: the board is sent once, the others are descriptors."""
ANSWER_TIMEOUT = 10.0
"""Seconds in which a loaded template answers an order; a fork takes some ten milliseconds."""
LOOK_INTERVAL = 0.5
"""Seconds after which the template looks at its workers even if none seems to have ended."""
FAILED_LOADS = 2
"""After this many failures in a row to load a template again, workers are spawned."""
UNKNOWN_STATUS = 255
"""Stands for the exit status of a worker that nobody can tell."""


class Host(Protocol):
    """What workers are forked with."""

    def preload(self, workers: int) -> str | None:
        """Load the application, so that forked workers share it.

        Args:
            workers: how many will share it.

        Returns:
            Why workers should not be forked from this process, or None if they may be.
        """

    def own(self, slot: int) -> None:
        """Give a forked worker its own of what was made once; called in it before it serves.

        Args:
            slot: the row of the scoreboard that it has.
        """


class Template:
    """The supervisor's view of the template; a way to start workers.

    Args:
        host: what the template loads; sent to it.
        config: uvicorn's settings.
        workers: how many will share what is loaded.
        board: where workers write about themselves.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        host: Host,
        config: Config,
        workers: int,
        board: Scoreboard,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._load_timeout = self._loaded_by = math.inf
        self.context = multiprocessing.get_context("spawn")
        self._arguments = (host, config, workers, board)
        self._spawning = Spawning()
        self._process: BaseProcess | None = None
        self._control: socket.socket | None = None
        self._loaded = False
        self._failures = 0
        self._children: set[int] = set()
        self._orphans: set[int] = set()
        self._statuses: dict[int, int] = {}

    @property
    def method(self) -> str:
        """How workers are started."""
        return "template" if self._failures < FAILED_LOADS else self._spawning.method

    @property
    def pid(self) -> int | None:
        """The template's process id, if it lives."""
        return None if self._process is None else self._process.pid

    def load(self, timeout: float) -> str | None:
        """Start the template and wait until it can fork workers.

        Args:
            timeout: seconds; also for each time that it is loaded again.

        Returns:
            Why it cannot, or None if it can.
        """
        self._load_timeout = timeout
        self._begin()
        answer = self._answer((READY, UNFIT), timeout)
        if answer is not None and answer[0] == READY:
            return None
        self.end()
        if answer is None:
            return f"the template was not ready within {timeout:g} s or ended before"
        return f"in the template {answer[1]}"

    def start(self, assignment: Assignment, inherited: Sequence[Any]) -> WorkerProcess:
        """Have the template fork a worker.

        Raises:
            NotYetError: a template that has ended is loaded again meanwhile.
            OSError: it cannot now.
        """
        del inherited  # nothing of the supervisor's is open in the template
        self._listen()
        self._give_up_if_late()
        if self._control is None:
            if self._failures >= FAILED_LOADS:
                return self._spawning.start(assignment, ())
            self._begin()
        if not self._loaded or self._control is None:
            raise NotYetError
        self._order(self._control, assignment)
        answer = self._answer((FORKED, REFUSED), ANSWER_TIMEOUT)
        if answer is None:
            self.end()
            raise OSError(errno.ETIMEDOUT, "the template has ended or does not answer")
        if answer[0] == REFUSED:
            raise OSError(errno.EAGAIN, answer[1])
        self._children.add(answer[1])
        return TemplateWorker(answer[1], self)

    def start_beside(
        self, task: Callable[..., object], arguments: Sequence[Any], inherited: Sequence[Any]
    ) -> BaseProcess:
        """Start a process that is no worker, afresh."""
        return self._spawning.start_beside(task, arguments, inherited)

    def end(self) -> None:
        """End the template; workers live on, adopted by the supervisor."""
        self._orphans |= self._children
        self._children.clear()
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        self._control = self._process = None
        self._loaded = False

    def exit_status(self, pid: int) -> int | None:
        """Return how a worker ended, or None while it runs.

        Args:
            pid: of a worker that this template has forked.
        """
        self._listen()
        if pid in self._orphans and pid not in self._statuses:
            status = _adopted_status(pid)
            if status is not None:
                self._statuses[pid] = status
        return self._statuses.get(pid)

    def forget(self, pid: int) -> None:
        """Drop what is known of a worker that has ended."""
        self._statuses.pop(pid, None)
        self._children.discard(pid)
        self._orphans.discard(pid)

    def has_lost(self, pid: int) -> bool:
        """Say whether the template that has forked this worker is gone."""
        return pid in self._orphans

    def ear(self) -> int | None:
        """Return a descriptor that is readable when the template says something, if it lives."""
        return None if self._control is None else os.dup(self._control.fileno())

    def _give_up_if_late(self) -> None:
        """End a template that is not loaded in time: workers are spawned from then on."""
        if not self._loaded and self._control is not None and self._clock() >= self._loaded_by:
            self._failures = FAILED_LOADS
            self.end()

    def _begin(self) -> None:
        self._loaded_by = self._clock() + self._load_timeout
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = self.context.Process(
                target=serve, args=(theirs, *self._arguments), name="template"
            )
            self._process.start()

    def _order(self, control: socket.socket, assignment: Assignment) -> None:
        order = {
            field.name: getattr(assignment, field.name)
            for field in fields(assignment)
            if field.name not in PASSED_OTHERWISE
        }
        link = assignment.link.connection.fileno()
        descriptors = [link, *(each.fileno() for each in assignment.sockets)]
        socket.send_fds(control, [pickle.dumps(order)], descriptors)

    def _answer(self, wanted: Sequence[str], timeout: float) -> tuple[str, Any] | None:
        """Wait for one of these messages; return None if it does not come."""
        deadline = time.monotonic() + timeout
        while self._control is not None and (left := deadline - time.monotonic()) > 0:
            self._control.settimeout(left)
            message = self._hear(self._control)
            if message is not None and message[0] in wanted:
                return message
        return None

    def _listen(self) -> None:
        """Take in what the template has said, without waiting."""
        while self._control is not None:
            self._control.settimeout(0)
            if self._hear(self._control) is None:
                return

    def _hear(self, control: socket.socket) -> tuple[str, Any] | None:
        try:
            data = control.recv(LONGEST_MESSAGE)
        except (BlockingIOError, TimeoutError):
            return None
        except OSError:
            data = b""
        if not data:
            self._failures += not self._loaded
            self.end()
            return None
        message: tuple[str, Any] = pickle.loads(data)  # noqa: S301 - written by our template
        if message[0] == READY:
            self._loaded, self._failures = True, 0
        elif message[0] == ENDED:
            pid, status = message[1]
            self._statuses[pid] = status
        return message


class TemplateWorker:
    """A worker that the template has forked; has what the supervisor needs of a process.

    Args:
        pid: its process id.
        template: knows how it ends.
    """

    def __init__(self, pid: int, template: Template) -> None:
        self.pid = pid
        self._template = template
        self._ear = template.ear()
        self._self: int | None = None
        with contextlib.suppress(OSError):  # Linux before 5.3 has none
            self._self = os.pidfd_open(pid)

    @property
    def sentinel(self) -> int | None:
        """A descriptor that is readable when the worker may have ended, if there is one."""
        return self._self if self._template.has_lost(self.pid) else self._ear

    @property
    def exitcode(self) -> int | None:
        """Its exit status, minus the signal's number if a signal ended it; None while it runs."""
        return self._template.exit_status(self.pid)

    def kill(self) -> None:
        """Kill it."""
        if self.exitcode is None:
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Release what is held for it."""
        for descriptor in (self._ear, self._self):
            if descriptor is not None:
                os.close(descriptor)
        self._template.forget(self.pid)


def _adopted_status(pid: int) -> int | None:
    """Return how a worker ended whose template is gone; the supervisor has adopted it then."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return None
        return UNKNOWN_STATUS
    return os.waitstatus_to_exitcode(status) if ended else None


def serve(
    control: socket.socket, host: Host, config: Config, workers: int, board: Scoreboard
) -> None:
    """Load, then fork workers as ordered, until the supervisor ends; the process's main function.

    Args:
        control: to the supervisor.
        host: what to load.
        config: uvicorn's settings.
        workers: how many will share what is loaded.
        board: where workers write about themselves.
    """
    default_signals()
    name_process("templ")
    exit_hooks.watch()
    with lossy_output():
        config.configure_logging()
        obstacle = host.preload(workers)
        if obstacle is not None:
            _say(control, UNFIT, obstacle)
            return
        growth.note()
        share_memory()
        board.totals.template_pid = os.getpid()
        _say(control, READY)
        _fork_as_ordered(control, Forking(host.own), board)
    # Workers that still drain are not waited for.
    os._exit(0)


def _fork_as_ordered(control: socket.socket, launcher: Launcher, board: Scoreboard) -> None:
    children: list[WorkerProcess] = []
    while True:
        sentinels = [child.sentinel for child in children if child.sentinel is not None]
        ready = multiprocessing.connection.wait([control, *sentinels], LOOK_INTERVAL)
        for child in [child for child in children if child.exitcode is not None]:
            _say(control, ENDED, (child.pid, child.exitcode))
            children.remove(child)
            child.close()
        if control not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, LONGEST_MESSAGE, MOST_DESCRIPTORS)
        if not data:
            return
        try:
            child = _fork(launcher, board, data, descriptors, control)
        except Exception as error:
            _say(control, REFUSED, f"{type(error).__name__}: {error}")
        else:
            children.append(child)
            _say(control, FORKED, child.pid)


def _fork(
    launcher: Launcher,
    board: Scoreboard,
    data: bytes,
    descriptors: list[int],
    control: socket.socket,
) -> WorkerProcess:
    link = WorkerEnd(Connection(descriptors[0]))
    sockets = [socket.socket(fileno=number) for number in descriptors[1:]]
    try:
        order = pickle.loads(data)  # noqa: S301 - written by our supervisor
        assignment = Assignment(**order, board=board, sockets=sockets, link=link)
        return launcher.start(assignment, [control])
    finally:
        link.close()
        for listener in sockets:
            listener.close()


def _say(control: socket.socket, what: str, detail: Any = None) -> None:
    with contextlib.suppress(OSError):  # a supervisor that is gone is noticed by the loop
        control.send(pickle.dumps((what, detail)))
