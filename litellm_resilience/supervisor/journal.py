"""Logs each event of a worker in one line, and keeps the last ones."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from litellm_resilience.supervisor import exits
from litellm_resilience.supervisor.limits import MEGABYTE
from litellm_resilience.supervisor.policy import Due

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_resilience.supervisor.handle import Handle
    from litellm_resilience.supervisor.helpers import Left

EVENTS_KEPT = 20
"""How many events are kept."""
MEMORY_WARNING_AGE = 60.0
"""A worker that reaches its memory limit before this age, in seconds, would do so for ever."""


class Journal:
    """Writes the events of all workers.

    Args:
        log: where to.
        clock: monotonic time in seconds.

    Attributes:
        recent: the last events, the newest last, each with the clock's time.
        obstacle: why workers are not forked from the command's own process, if they are not.
    """

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._warned_of_memory = False
        self.recent: deque[tuple[float, str]] = deque(maxlen=EVENTS_KEPT)
        self.obstacle: str | None = None

    def _write(self, level: int, message: str, *arguments: object) -> None:
        self._log.log(level, message, *arguments, stacklevel=2)
        self.recent.append((self._clock(), message % arguments))

    def supervising(self, target: int, method: str, obstacle: str | None) -> None:
        """Say how many workers are supervised, how they are started, and why not otherwise."""
        self.obstacle = obstacle
        how = how_started(method, obstacle)
        self._write(logging.INFO, "Supervising %d workers, %s", target, how)

    def loading_template(self, obstacle: str) -> None:
        """Workers cannot be forked from this process; another one is started for that."""
        self._write(
            logging.INFO,
            "Workers cannot be forked from the command's own process: %s. "
            "Loading LiteLLM in a template process, which forks them",
            obstacle,
        )

    def started(self, worker: Handle) -> None:
        """A worker was started."""
        self._write(logging.INFO, "%s started", worker.name.capitalize())

    def not_started(self, error: Exception, pause: float) -> None:
        """A worker could not be started."""
        self._write(
            logging.ERROR,
            "A worker could not be started: %s; next attempt in %g s",
            str(error) or type(error).__name__,
            pause,
        )

    def ready(self, worker: Handle, seconds: float) -> None:
        """A worker serves."""
        self._write(logging.INFO, "%s ready after %.2f s", worker.name.capitalize(), seconds)

    def due(self, worker: Handle, age: float) -> None:
        """A worker should be replaced."""
        self._write(
            logging.INFO, "%s %s, will be replaced", worker.name.capitalize(), worker.reason
        )
        if worker.due is Due.MEMORY and age < MEMORY_WARNING_AGE and not self._warned_of_memory:
            self._warned_of_memory = True
            self._write(
                logging.WARNING,
                "%s reached its memory limit %.0f s after it was ready, holding %d MB: "
                "--max_worker_memory_mb is too low for this proxy, workers will be replaced all "
                "the time",
                worker.name.capitalize(),
                age,
                worker.memory // MEGABYTE,
            )

    def retiring(self, worker: Handle) -> None:
        """A worker's replacement is about to be started."""
        self._write(logging.INFO, "%s retiring: %s", worker.name.capitalize(), worker.reason)

    def draining(self, worker: Handle) -> None:
        """A worker accepts nothing new."""
        by = f", replaced by {worker.successor}" if worker.successor else ""
        self._write(logging.INFO, "%s draining%s", worker.name.capitalize(), by)

    def drained(self, worker: Handle, seconds: float) -> None:
        """A worker has ended as it should."""
        self._write(
            logging.INFO,
            "%s drained after %.1f s, %d requests in all",
            worker.name.capitalize(),
            seconds,
            worker.requests,
        )

    def killing(self, worker: Handle) -> None:
        """A worker does not do what it should."""
        self._write(logging.ERROR, "Killing %s: %s", worker.name, worker.killed_because)

    def boot_failed(self, worker: Handle, pause: float) -> None:
        """A worker ended before it was ready."""
        self._write(
            logging.ERROR,
            "%s could not start: %s; next attempt in %g s",
            worker.name.capitalize(),
            exits.describe(worker.process.exitcode, worker.killed_because),
            pause,
        )

    def died(self, worker: Handle, pause: float) -> None:
        """A worker died."""
        self._write(
            logging.ERROR,
            "%s died: %s; %s%s",
            worker.name.capitalize(),
            exits.describe(worker.process.exitcode, worker.killed_because),
            _records(worker, "{}; "),
            f"workers keep dying, next start in {pause:g} s" if pause else "replacing it",
        )

    def lost(self, worker: Handle) -> None:
        """A worker ended otherwise than asked, and nothing needs to be done about it."""
        self._write(
            logging.WARNING,
            "%s %s while %s%s",
            worker.name.capitalize(),
            exits.describe(worker.process.exitcode, worker.killed_because),
            worker.state.value,
            _records(worker, "; {}"),
        )

    def left(self, left: Left) -> None:
        """A process that a worker had started has outlived it."""
        self._write(
            logging.WARNING,
            "%s left %s (pid %d): ended it",
            left.worker.capitalize(),
            left.helper.name,
            left.helper.pid,
        )

    def misunderstood(self, worker: Handle) -> None:
        """A worker has written to the supervisor what no worker of this package writes."""
        self._write(
            logging.WARNING,
            "%s sent an unknown message, which is ignored",
            worker.name.capitalize(),
        )

    def failed(self) -> None:
        """The supervisor itself has a fault; to be called while the exception is handled."""
        self._log.exception("The supervisor has met an error and goes on. Please report this")

    def gave_up(self) -> None:
        """No worker of the first generation could start."""
        self._write(logging.ERROR, "No worker could start: see the error above. Ending.")

    def asked(self, what: str) -> None:
        """An operator asked for something."""
        self._write(logging.INFO, "%s", what)

    def stopped(self) -> None:
        """All workers have ended."""
        self._write(logging.INFO, "All workers have ended")


def how_started(method: str, obstacle: str | None) -> str:
    """Return how workers are started, in words.

    Args:
        method: one of `scoreboard.START_METHODS`.
        obstacle: why they are not forked from the command's own process, if they are not.
    """
    how = "forked from a template" if method == "template" else method
    return f"{how}: {obstacle}" if obstacle else how


def _records(worker: Handle, template: str) -> str:
    """Say how many records were lost with a worker, if any."""
    number = worker.records_lost
    return template.format(f"{number} records are lost with it") if number else ""
