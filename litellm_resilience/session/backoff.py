"""Capped exponential backoff between attempts at the same thing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """The pause after each failed attempt.

    Args:
        first: pause after the first failure, in seconds.
        factor: how much longer each further pause is.
        cap: the longest pause, in seconds.
    """

    first: float = 1.0
    factor: float = 2.0
    cap: float = 60.0

    def pause(self, failures: int) -> float:
        """Return the pause after this many consecutive failures (1 or more), in seconds."""
        exponent = min(failures - 1, 64)
        return min(self.cap, self.first * self.factor**exponent)


class Attempts:
    """Failed attempts for one subject; a new subject starts with a clean record.

    Args:
        backoff: how long to pause.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._subject: object = None
        self._failures = 0
        self._not_before = 0.0

    def allowed(self, subject: object, now: float) -> bool:
        """Say whether an attempt for this subject is due at this time (seconds)."""
        return not self._failures or subject is not self._subject or now >= self._not_before

    def failed(self, subject: object, now: float) -> float:
        """Record a failed attempt and return the pause before the next one, in seconds."""
        self._failures = self._failures + 1 if subject is self._subject else 1
        self._subject = subject
        pause = self._backoff.pause(self._failures)
        self._not_before = now + pause
        return pause

    def succeeded(self) -> None:
        """Forget all failures."""
        self._subject = None
        self._failures = 0
