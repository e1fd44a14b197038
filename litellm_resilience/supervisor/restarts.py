"""When the next worker may be started, given how the last ones ended."""

from __future__ import annotations

import math

IMMEDIATE_RESTARTS = 5
"""This many early deaths in a row are each followed by an immediate start."""
EARLY_DEATH_MEMORY = 60.0
"""Seconds after which an early death no longer counts against the next one."""
EARLY_DEATH_AGE = 10.0
"""Seconds; a worker that has served for longer has not died early."""
LONGEST_PAUSE = 60.0
"""Seconds between two starts, at most; the first pause is 1 s, each further one twice as long."""
SHORT_PAUSE = 0.5
"""Seconds until the next attempt where nothing has failed."""


class Restarts:
    """Starts at once after a death, later and later when workers keep dying."""

    def __init__(self) -> None:
        self._failed_boots = 0
        self._early_deaths = 0
        self._last_death = -math.inf
        self.not_before = 0.0

    def boot_failed(self, now: float) -> float:
        """Note that a worker ended before it was ready; return the pause in seconds.

        Workers that are started together fail together: what fails in a pause makes it no longer.
        """
        if now < self.not_before:
            return round(self.not_before - now, 1)
        self._failed_boots += 1
        return self._pause(now, self._failed_boots)

    def delay(self, now: float) -> None:
        """Note that a worker cannot be started yet, and that this is no failure."""
        self.not_before = max(self.not_before, now + SHORT_PAUSE)

    def died(self, now: float, age: float) -> float:
        """Note that a worker died `age` seconds after it was ready; return the pause."""
        if age >= EARLY_DEATH_AGE or now - self._last_death > EARLY_DEATH_MEMORY:
            self._early_deaths = 0
        self._last_death = now
        if age >= EARLY_DEATH_AGE:
            return 0.0
        self._early_deaths += 1
        return self._pause(now, self._early_deaths - IMMEDIATE_RESTARTS)

    def ready(self) -> None:
        """Note that a worker became ready."""
        self._failed_boots = 0

    def _pause(self, now: float, failures: int) -> float:
        if failures < 1:
            return 0.0
        pause: float = min(LONGEST_PAUSE, 2.0 ** min(failures - 1, 64))
        self.not_before = max(self.not_before, now + pause)
        return pause
