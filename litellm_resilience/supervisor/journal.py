"""What happens to workers, one log line per event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litellm_resilience.supervisor import exits
from litellm_resilience.supervisor.limits import MEGABYTE
from litellm_resilience.supervisor.policy import Due

if TYPE_CHECKING:
    import logging

    from litellm_resilience.supervisor.handle import Handle

YOUNG = 60.0
"""A worker that reaches its memory limit before this age, in seconds, would do so for ever."""


class Journal:
    """Writes the events of all workers.

    Args:
        log: where to.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._warned_of_memory = False

    def supervising(self, target: int, method: str, obstacle: str | None) -> None:
        """Say how many workers are supervised, and why they are not forked if they are not."""
        reason = f": {obstacle}" if obstacle else ""
        self._log.info("Supervising %d workers, %s%s", target, method, reason)

    def started(self, worker: Handle) -> None:
        """A worker was started."""
        self._log.info("%s started", worker.name.capitalize())

    def not_started(self, error: OSError, pause: float) -> None:
        """The operating system refused to start a worker."""
        self._log.error("A worker could not be started: %s; next attempt in %g s", error, pause)

    def ready(self, worker: Handle, seconds: float) -> None:
        """A worker serves."""
        self._log.info("%s ready after %.2f s", worker.name.capitalize(), seconds)

    def due(self, worker: Handle, age: float) -> None:
        """A worker should be replaced."""
        self._log.info("%s %s, will be replaced", worker.name.capitalize(), worker.reason)
        if worker.due is Due.MEMORY and age < YOUNG and not self._warned_of_memory:
            self._warned_of_memory = True
            self._log.warning(
                "%s reached its memory limit %.0f s after it was ready, holding %d MB: "
                "--max_worker_memory_mb is too low for this proxy, workers will be replaced all "
                "the time",
                worker.name.capitalize(),
                age,
                worker.memory // MEGABYTE,
            )

    def retiring(self, worker: Handle) -> None:
        """A worker's replacement is about to be started."""
        self._log.info("%s retiring: %s", worker.name.capitalize(), worker.reason)

    def draining(self, worker: Handle) -> None:
        """A worker accepts nothing new."""
        by = f", replaced by {worker.successor}" if worker.successor else ""
        self._log.info("%s draining%s", worker.name.capitalize(), by)

    def drained(self, worker: Handle, seconds: float) -> None:
        """A worker has ended as it should."""
        self._log.info(
            "%s drained after %.1f s, %d requests in all",
            worker.name.capitalize(),
            seconds,
            worker.requests,
        )

    def killing(self, worker: Handle) -> None:
        """A worker does not do what it should."""
        self._log.error("Killing %s: %s", worker.name, worker.killed_because)

    def boot_failed(self, worker: Handle, pause: float) -> None:
        """A worker ended before it was ready."""
        self._log.error(
            "%s could not start: %s; next attempt in %g s",
            worker.name.capitalize(),
            exits.describe(worker.process.exitcode, worker.killed_because),
            pause,
        )

    def died(self, worker: Handle, pause: float) -> None:
        """A worker died."""
        self._log.error(
            "%s died: %s; %s",
            worker.name.capitalize(),
            exits.describe(worker.process.exitcode, worker.killed_because),
            f"workers keep dying, next start in {pause:g} s" if pause else "replacing it",
        )

    def lost(self, worker: Handle) -> None:
        """A worker ended otherwise than asked, and nothing needs to be done about it."""
        self._log.warning(
            "%s %s while %s",
            worker.name.capitalize(),
            exits.describe(worker.process.exitcode, worker.killed_because),
            worker.state.value,
        )

    def failed(self) -> None:
        """The supervisor itself has a fault; to be called while the exception is handled."""
        self._log.exception("The supervisor failed at something and goes on; please report this")

    def gave_up(self) -> None:
        """No worker of the first generation could start."""
        self._log.error("No worker could start: see the error above. Ending.")

    def asked(self, what: str) -> None:
        """An operator asked for something."""
        self._log.info("%s", what)

    def stopped(self) -> None:
        """All workers have ended."""
        self._log.info("All workers have ended")
