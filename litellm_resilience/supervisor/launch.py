"""How a worker process is started: forked from a process that holds LiteLLM, or spawned."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from typing import TYPE_CHECKING, Protocol

from litellm_resilience.supervisor import child, exit_hooks, worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess
    from typing import Any

    from litellm_resilience.supervisor.worker import Assignment


class NotYetError(Exception):
    """What workers are forked from is not ready; it will be, or something else is used instead."""


class WorkerProcess(Protocol):
    """What the supervisor needs of a worker's process."""

    @property
    def pid(self) -> int | None:
        """Its process id."""

    @property
    def sentinel(self) -> int | None:
        """A descriptor that is readable when the process may have ended, if there is one."""

    @property
    def exitcode(self) -> int | None:
        """Its exit status, minus the signal's number if a signal ended it; None while it runs."""

    def kill(self) -> None:
        """Kill it."""

    def close(self) -> None:
        """Release what is held for it."""


class Launcher(Protocol):
    """A way to start workers."""

    @property
    def method(self) -> str:
        """How, as one of `scoreboard.START_METHODS`."""

    @property
    def context(self) -> BaseContext:
        """What pipes and shared memory for such a worker are made with."""

    def start(self, assignment: Assignment, inherited: Sequence[Any]) -> WorkerProcess:
        """Start a worker.

        Args:
            assignment: what it needs to know.
            inherited: what belongs to the supervisor and must not stay open in the worker.

        Raises:
            NotYetError: it can be started a little later.
            OSError: the operating system refuses.
        """

    def start_beside(
        self, task: Callable[..., object], arguments: Sequence[Any], inherited: Sequence[Any]
    ) -> BaseProcess:
        """Start a process that is no worker.

        Args:
            task: what it does; a function of a module.
            arguments: what it is called with.
            inherited: as for a worker.

        Raises:
            OSError: the operating system refuses.
        """

    def end(self) -> None:
        """Release what workers are started with; those that run live on."""


class Forking:
    """Forks workers: they share this process's memory and need not import LiteLLM.

    Args:
        own: called with the row of each worker, in it, before it serves: gives it its own of what
            was made once.
    """

    method = "forked"

    def __init__(self, own: Callable[[int], None]) -> None:
        self.context = multiprocessing.get_context("fork")
        self._own = own

    def start(self, assignment: Assignment, inherited: Sequence[Any]) -> BaseProcess:
        """Start a worker."""
        with exit_hooks.kept_through_fork():
            return self.start_beside(worker.serve_forked, [assignment, self._own], inherited)

    def start_beside(
        self, task: Callable[..., object], arguments: Sequence[Any], inherited: Sequence[Any]
    ) -> BaseProcess:
        """Start any process; signals wait until it has handlers of its own."""
        process = self.context.Process(target=child.run, args=(task, arguments, inherited))
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of any other thread; which ones may live is checked before.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return process

    def end(self) -> None:
        """Release nothing."""


class Spawning:
    """Starts workers afresh: each imports LiteLLM for itself."""

    method = "spawned"

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("spawn")

    def start(self, assignment: Assignment, inherited: Sequence[Any]) -> BaseProcess:
        """Start a worker; nothing of the supervisor's is open in it."""
        return self.start_beside(worker.run_spawned, [assignment], inherited)

    def start_beside(
        self, task: Callable[..., object], arguments: Sequence[Any], inherited: Sequence[Any]
    ) -> BaseProcess:
        """Start any process."""
        del inherited
        process = self.context.Process(target=task, args=tuple(arguments))
        process.start()
        return process

    def end(self) -> None:
        """Release nothing."""
