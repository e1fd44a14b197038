"""A reload that is tried first: judges new workers by what they and the others have answered.

Pure: no process, no clock. What a client gets wrong is the same for all workers, so only what is
worse than elsewhere counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

LEAST_ERRORS = 3
ERRORS_MORE, REFUSALS_MORE = 0.1, 0.5
"""Shares of all replies by which a new worker may have more errors (5xx), or refusals (4xx)."""
TIMES_MORE = 2.0
"""It must also have so many times as many."""
LEAST_COMPARED = 20
"""Replies of each side without which they are not compared by time."""
TIMES_SLOWER, SECONDS_SLOWER = 3.0, 1.0
SILENCE = 10.0
"""Seconds without a reply that mean nothing, besides what is usual for the others."""


class Answered(NamedTuple):
    """What workers have answered.

    Args:
        replies: how many began.
        errors: of these, with a status of 500 or more.
        refusals: with one from 400 to 499.
        seconds: from the requests to the beginnings of their replies, in all.
    """

    replies: int = 0
    errors: int = 0
    refusals: int = 0
    seconds: float = 0.0

    def plus(self, other: Answered, sign: int = 1) -> Answered:
        """Return the sum, or with a sign of -1 the difference."""
        return Answered(
            self.replies + sign * other.replies,
            self.errors + sign * other.errors,
            self.refusals + sign * other.refusals,
            self.seconds + sign * other.seconds,
        )

    @property
    def mean(self) -> float:
        """Seconds to the beginning of a reply, on average."""
        return self.seconds / self.replies if self.replies else 0.0

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.replies} replies, {self.errors} errors, {self.refusals} refusals"


def fault(new: Answered, old: Answered, silent_for: float = 0.0) -> str | None:
    """Say what is wrong with new workers, if something is.

    Args:
        new: what they have answered since they were ready.
        old: what the others have answered meanwhile.
        silent_for: for how many seconds new ones have had requests and begun no reply at all.
    """
    for kind, more in (("errors", ERRORS_MORE), ("refusals", REFUSALS_MORE)):
        mine, theirs = getattr(new, kind), getattr(old, kind)
        usual = theirs / old.replies if old.replies else 0.0
        if mine >= LEAST_ERRORS and mine / new.replies > max(usual + more, TIMES_MORE * usual):
            told = f"{theirs} of {old.replies} elsewhere"
            return f"{mine} of {new.replies} replies are {kind}, {told}"
    enough = min(new.replies, old.replies) >= LEAST_COMPARED
    if enough and new.mean > max(TIMES_SLOWER * old.mean, old.mean + SECONDS_SLOWER):
        return f"a reply takes {new.mean:.1f} s, {old.mean:.1f} s elsewhere"
    usual = TIMES_SLOWER * old.mean + SILENCE
    if not new.replies and old.replies >= LEAST_COMPARED and silent_for > usual:
        return f"it has answered nothing for {silent_for:.0f} s, others {old.replies} requests"
    return None


@dataclass(frozen=True)
class Seen:
    """What is seen of a worker.

    Args:
        number: of the worker.
        answered: since it was started.
        in_flight: requests that it is answering.
    """

    number: int
    answered: Answered
    in_flight: int = 0


class Trial:
    """One reload.

    Args:
        seconds: how long new workers are watched.
        first: the number of the first worker that reads what is new.
    """

    def __init__(self, seconds: float, first: int) -> None:
        self.seconds = seconds
        self.first = first
        self.new = self.old = Answered()
        self._began: float | None = None
        self._before: dict[int, Answered] = {}
        self._silent_since: float | None = None

    def look(self, now: float, serving: list[Seen]) -> str | None:
        """Look at the workers that serve; say what is wrong with the new ones, if something is.

        Args:
            now: seconds of a monotonic clock.
            serving: what is seen of each.
        """
        new = [seen for seen in serving if seen.number >= self.first]
        if not new:
            return None
        if self._began is None:
            self._began = now
            self._before = {seen.number: seen.answered for seen in serving}
        self.new = self.old = Answered()
        for seen in serving:
            since = seen.answered.plus(self._before.get(seen.number, Answered()), -1)
            if seen.number >= self.first:
                self.new = self.new.plus(since)
            else:
                self.old = self.old.plus(since)
        silent = not self.new.replies and any(seen.in_flight for seen in new)
        self._silent_since = (self._silent_since or now) if silent else None
        return fault(self.new, self.old, now - self._silent_since if self._silent_since else 0.0)

    def is_over(self, now: float) -> bool:
        """Say whether new workers have been watched for long enough."""
        return self._began is not None and now - self._began >= self.seconds
