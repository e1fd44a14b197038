"""Logs each event of a worker in one line, and keeps the last ones."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING

from litellm_resilience.supervisor import exits
from litellm_resilience.supervisor.limits import MEGABYTE
from litellm_resilience.supervisor.policy import Due

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_resilience.supervisor.growth import Growth
    from litellm_resilience.supervisor.handle import Handle
    from litellm_resilience.supervisor.helpers import Left
    from litellm_resilience.supervisor.trial import Trial

GROWTHS_KEPT = 8
"""How many reports of growth are kept."""
TYPES_LOGGED = 5
"""How many types of objects are named in the log."""
EVENTS_KEPT = 20
"""How many events are kept."""
MEMORY_WARNING_AGE = 60.0
"""A worker that reaches its memory limit before this age, in seconds, would do so for ever."""

HELPLESS_INTERVAL = 600.0
"""Seconds after which it is said again that memory is short and nothing can be done."""


class Journal:
    """Writes the events of all workers.

    Args:
        log: where to.
        clock: monotonic time in seconds.

    Attributes:
        recent: the last events, the newest last, each with the clock's time.
        growth: what the last workers that told it had more than at their fork; each with the
            clock's time and the worker's name.
        obstacle: why workers are not forked from the command's own process, if they are not.
    """

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._warned_of_memory = False
        self._memory_limit: int | str = ""
        self._helpless_at = -math.inf
        self.recent: deque[tuple[float, str]] = deque(maxlen=EVENTS_KEPT)
        self.growth: deque[tuple[float, str, Growth]] = deque(maxlen=GROWTHS_KEPT)
        self.obstacle: str | None = None

    @property
    def log(self) -> logging.Logger:
        """Where it writes to."""
        return self._log

    def _write(self, level: int, message: str, *arguments: object) -> None:
        self._log.log(level, message, *arguments, stacklevel=2)
        self.recent.append((self._clock(), message % arguments))

    def supervising(self, target: int, method: str, obstacle: str | None) -> None:
        """Say how many workers are supervised, how they are started, and why not otherwise."""
        self.obstacle = obstacle
        how = how_started(method, obstacle)
        self._write(logging.INFO, "Supervising %s, %s", counted(target), how)

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

    def loading_again(self) -> None:
        """The template has ended, and the next worker has to wait for another one."""
        self._write(
            logging.WARNING,
            "The template has ended and is loaded again: the next worker starts when it is ready",
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
                "%s for this proxy, workers will be replaced all the time",
                worker.name.capitalize(),
                age,
                worker.memory // MEGABYTE,
                "the limit of all processes is too low"
                if worker.limits.memory is None
                else "--max_worker_memory_mb is too low",
            )

    def memory_limit(self, limit: int) -> None:
        """All workers together must stay within this limit, in bytes; said when it changes."""
        if limit != self._memory_limit:
            self._memory_limit = limit
            self._write(
                logging.INFO,
                "All processes may hold %d MB: the largest worker is replaced before they do",
                limit // MEGABYTE,
            )

    def no_memory_limit(self, reason: str) -> None:
        """No limit for all workers together is known; said when that or the reason is new."""
        if reason != self._memory_limit:
            self._memory_limit = reason
            self._write(logging.WARNING, "No worker is replaced for its memory: %s", reason)

    def memory_helpless(self, used: int, limit: int) -> None:
        """Memory is short, in bytes, and no worker holds more than a new one would."""
        if self._clock() >= self._helpless_at + HELPLESS_INTERVAL:
            self._helpless_at = self._clock()
            self._write(
                logging.WARNING,
                "All processes hold %d of %d MB, and no worker holds much more than a new one: "
                "raise the limit or start fewer workers",
                used // MEGABYTE,
                limit // MEGABYTE,
            )

    def postponed(self, worker: Handle) -> None:
        """A worker should be replaced, but enough others drain."""
        self._write(
            logging.INFO,
            "%s serves on: as many workers drain as --max_draining_workers allows",
            worker.name.capitalize(),
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

    def grew(self, worker: Handle) -> None:
        """A worker may have told what it held more than at its fork."""
        growth = worker.growth
        if growth is None:
            return
        self.growth.append((self._clock(), worker.name, growth))
        largest = ", ".join(map(str, growth.entries[:TYPES_LOGGED])) or "nothing"
        self._write(
            logging.INFO,
            "%s had grown by %d MB since its fork, %d MB in Python objects%s: %s",
            worker.name.capitalize(),
            growth.memory // MEGABYTE,
            growth.objects // MEGABYTE,
            ", so most of it elsewhere" if growth.is_elsewhere else "",
            largest,
        )

    def killing(self, worker: Handle) -> None:
        """A worker does not do what it should."""
        self._write(logging.ERROR, "Killing %s: %s", worker.name, worker.killed_because)

    def mute(self, worker: Handle, seconds: float, *, stacks: bool) -> None:
        """A worker's event loop is blocked, and none of its threads can say by what."""
        self._write(
            logging.WARNING,
            "%s has stood still for %.1f s, with all its threads%s",
            worker.name.capitalize(),
            seconds,
            ": the stacks that it prints now say where" if stacks else "",
        )

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

    def trying(self, trial: Trial) -> None:
        """A reload begins with one new worker."""
        self._write(
            logging.INFO,
            "Trying one new worker for %g s before the others are replaced",
            trial.seconds,
        )

    def tried(self, trial: Trial) -> None:
        """A new worker has done well, or had nothing to do."""
        if not trial.new.replies:
            self._write(
                logging.INFO,
                "The new worker got no request in %g s: the others are replaced untried",
                trial.seconds,
            )
            return
        self._write(
            logging.INFO,
            "The new worker has done well for %g s (%s; others: %s): replacing the others",
            trial.seconds,
            trial.new,
            trial.old,
        )

    def taken_back(self, why: str) -> None:
        """A new worker has not done well."""
        self._write(
            logging.ERROR,
            "The reload is taken back: %s. The workers from before serve on. The file is as it is: "
            "a worker that is started now reads it, too",
            why,
        )

    def config_changed(self, path: str) -> None:
        """The content of the config file is another one."""
        self._write(logging.INFO, "The config file %s has changed: reloading", path)

    def config_missing(self, path: str) -> None:
        """There is nothing to read where the config file was."""
        self._write(
            logging.WARNING,
            "The config file %s is missing, empty or cannot be read. The workers serve on with "
            "what they have read; one that is started now cannot read it",
            path,
        )

    def upgrade_failed(self, why: str) -> None:
        """A new proxy has not become ready."""
        self._write(logging.ERROR, "The upgrade has failed: %s. The workers here serve on", why)

    def heir_failed(self, failure: str) -> None:
        """The proxy that has taken over has ended, while this one still drains."""
        self._write(
            logging.WARNING,
            "The proxy that has taken over serves no more: %s. Stopping too, so that all can be "
            "started again",
            failure,
        )

    def stopped(self) -> None:
        """All workers have ended."""
        self._write(logging.INFO, "All workers have ended")


def counted(workers: int) -> str:
    """Return a number of workers in words.

    Args:
        workers: how many.
    """
    return f"{workers} worker{'' if workers == 1 else 's'}"


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
    lost = "1 record is lost with it" if number == 1 else f"{number} records are lost with it"
    return template.format(lost) if number else ""
