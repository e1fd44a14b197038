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


class Launcher(Protocol):
    """A way to start workers."""

    @property
    def method(self) -> str:
        """How, in one word for the log."""

    @property
    def context(self) -> BaseContext:
        """What pipes and shared memory for such a worker are made with."""

    def start(self, assignment: Assignment, inherited: Sequence[Any]) -> BaseProcess:
        """Start a worker.

        Args:
            assignment: what it needs to know.
            inherited: what belongs to the supervisor and must not stay open in the worker.

        Raises:
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


class Forking:
    """Forks workers: they share the supervisor's memory and need not import LiteLLM."""

    method = "forked"

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("fork")

    def start(self, assignment: Assignment, inherited: Sequence[Any]) -> BaseProcess:
        """Start a worker."""
        with exit_hooks.kept_through_fork():
            return self.start_beside(worker.run_forked, [assignment], inherited)

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
