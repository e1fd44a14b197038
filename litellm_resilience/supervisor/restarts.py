"""When the next worker may be started, given how the last ones ended."""

from __future__ import annotations

import math

from litellm_resilience.backoff import Backoff

LENIENT = 5
"""So many early deaths in a row are answered with an immediate start."""
FORGOTTEN = 60.0
"""Seconds after which an early death is not held against the next one."""
PROVEN = 10.0
"""Seconds after which a worker that serves has proved that workers can live."""


class Restarts:
    """Starts at once after a death, later and later when workers keep dying.

    Args:
        backoff: how long to wait.
    """

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff(first=1.0, cap=60.0)
        self._failed_boots = 0
        self._early_deaths = 0
        self._last_death = -math.inf
        self.not_before = 0.0

    def boot_failed(self, now: float) -> float:
        """Note that a worker ended before it was ready; return the pause in seconds."""
        self._failed_boots += 1
        return self._pause(now, self._failed_boots)

    def died(self, now: float, age: float) -> float:
        """Note that a worker died `age` seconds after it was ready; return the pause."""
        if age >= PROVEN or now - self._last_death > FORGOTTEN:
            self._early_deaths = 0
        self._last_death = now
        if age >= PROVEN:
            return 0.0
        self._early_deaths += 1
        return self._pause(now, self._early_deaths - LENIENT)

    def ready(self) -> None:
        """Note that a worker became ready."""
        self._failed_boots = 0

    def _pause(self, now: float, failures: int) -> float:
        if failures < 1:
            return 0.0
        pause = self._backoff.pause(failures)
        self.not_before = max(self.not_before, now + pause)
        return pause
