"""Keeps all workers together within the memory limit of their group of processes.

The trigger of `--max_worker_memory_mb auto`. What all hold is read from the group, which costs
next to nothing. How much of a worker's memory is its own costs 20 microseconds for each MiB of it,
while the worker can map no memory: it is read twice in a worker's life. In between, resident
memory says who has grown most, because what workers share is the same in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_resilience.supervisor import cgroup, memory
from litellm_resilience.supervisor.limits import MEGABYTE
from litellm_resilience.supervisor.policy import Due, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from litellm_resilience.supervisor.cgroup import Usage
    from litellm_resilience.supervisor.handle import Handle
    from litellm_resilience.supervisor.journal import Journal

LOOK_INTERVAL = 0.5
"""Seconds between two looks."""

CEILING = 0.9
"""The part of the limit that is planned with; above it, memory is short."""
PRESSURE = 10.0
"""Percent of the time that processes may wait for memory before it counts as short."""
MEMORY_OF_GROWTH = 5.0
"""Seconds over which the growth is averaged."""
DRAIN_SECONDS = 5.0
"""How long a worker that is being replaced keeps its memory, beside its replacement's start."""
SETTLED_AGE = 2.0
"""Seconds after which a worker holds what each will hold."""
SETTLED_REQUESTS = 10
"""Requests after which it does."""
LEAST_GAIN = 0.25
"""A worker is replaced only if that frees this part of what a settled one holds, at least."""
LARGEST_ROOM = 0.5
"""The part of the limit that may be kept free at most."""


@dataclass(frozen=True)
class Member:
    """What is known of one worker.

    Args:
        number: identifies it.
        resident: its memory in bytes, shared pages included.
        age: seconds since it was ready; None before that.
        requests: how many it has answered.
        boot: seconds it took to be ready.
        leaving: it is chosen to be replaced for its memory, is being replaced, or drains.
    """

    number: int
    resident: int
    age: float | None = None
    requests: int = 0
    boot: float = 0.0
    leaving: bool = False


@dataclass(frozen=True)
class Verdict:
    """What follows.

    Args:
        replace: the number of the worker that should be replaced now.
        own: how many bytes of that worker's memory are its own.
        short: memory is short: connections should not be kept alive.
        helpless: something should be replaced, and it would free next to nothing.
    """

    replace: int | None = None
    own: int = 0
    short: bool = False
    helpless: bool = False


@dataclass
class Headroom:
    """Decides, from one look to the next, whether a worker must go.

    Args:
        restarting: how many workers may be replaced at once.
        private: returns how many bytes of a worker's memory are its own, by its number.
    """

    restarting: int
    private: Callable[[int], int]
    growth: float = 0.0
    """Bytes in a second, of all workers that serve."""
    settled: int | None = None
    """Bytes of its own that a worker holds once it has answered some requests; the least seen."""
    _settled_resident: int = 0
    _own: dict[int, int] = field(default_factory=dict)
    _last: dict[int, int] = field(default_factory=dict)
    _looked_at: float | None = None
    _chosen_at: float = -math.inf

    def look(self, now: float, group: Usage, members: Sequence[Member]) -> Verdict:
        """Say what to do.

        Args:
            now: seconds of a monotonic clock.
            group: what is used of the limit.
            members: all workers that live.
        """
        serving = [m for m in members if m.age is not None and not m.leaving]
        self._measure_growth(now, serving)
        self._settle(serving)
        numbers = {member.number for member in members}
        self._own = {number: own for number, own in self._own.items() if number in numbers}

        ceiling = int(CEILING * group.limit)
        short = group.used > ceiling or group.pressure >= PRESSURE
        leaving = [member for member in members if member.leaving]
        freed = sum(self._own.get(member.number, 0) for member in leaving)
        over = group.used - freed + self._room(group, members) > ceiling
        largest = max(serving, key=lambda member: member.resident, default=None)
        if largest is None or not (short or over) or now < self._chosen_at + self._pause(over=over):
            return Verdict(short=short)
        if not self._worthwhile(largest):
            return Verdict(short=short, helpless=short and not leaving)
        self._chosen_at = now
        self._own[largest.number] = own = self.private(largest.number)
        return Verdict(largest.number, own, short)

    def _pause(self, *, over: bool) -> float:
        """Return how many seconds must have passed since the last choice.

        Until a worker has settled, so that one may. Later, so that one may go, unless what is left
        then is too much as well.
        """
        if self.settled is None:
            return SETTLED_AGE
        return 0.0 if over else DRAIN_SECONDS

    def _room(self, group: Usage, members: Sequence[Member]) -> int:
        """Return what must be free: for replacements, and for what grows until one has gone."""
        seconds = max((member.boot for member in members), default=0.0) + DRAIN_SECONDS
        room = self.restarting * (self.settled or 0) + int(self.growth * seconds)
        return min(room, int(LARGEST_ROOM * group.limit))

    def _measure_growth(self, now: float, serving: Sequence[Member]) -> None:
        grown = sum(
            max(0, member.resident - self._last.get(member.number, member.resident))
            for member in serving
        )
        if self._looked_at is not None and now > self._looked_at:
            seconds = now - self._looked_at
            weight = 1 - math.exp(-seconds / MEMORY_OF_GROWTH)
            self.growth += weight * (grown / seconds - self.growth)
        self._looked_at = now
        self._last = {member.number: member.resident for member in serving}

    def _settle(self, serving: Sequence[Member]) -> None:
        for member in serving:
            old = member.age is not None and member.age >= SETTLED_AGE
            if old and member.requests >= SETTLED_REQUESTS and member.number not in self._own:
                own = self._own[member.number] = self.private(member.number)
                if own and (self.settled is None or own < self.settled):
                    self.settled, self._settled_resident = own, member.resident

    def _worthwhile(self, largest: Member) -> bool:
        if self.settled is None:
            return True
        gain = largest.resident - self._settled_resident
        return gain >= max(LEAST_GAIN * self.settled, MEGABYTE)


class GroupWatch:
    """Looks at the group for the supervisor, and says what it finds.

    Args:
        restarting: how many workers may be replaced at once.
        journal: told when the limit changes, cannot be read, or is near.
        root: where `proc` and the cgroup file systems are; another one in tests.
    """

    def __init__(self, restarting: int, journal: Journal, root: Path = Path("/")) -> None:
        self._journal = journal
        self._root = root
        self._pids: dict[int, int] = {}
        self._headroom = Headroom(restarting, lambda number: memory.private(self._pids[number]))
        self._next_look = -math.inf
        self.short = False

    def look(self, now: float, workers: Sequence[Handle]) -> tuple[Handle, str] | None:
        """Return the worker that should be replaced now, if one should, and why.

        Args:
            now: seconds of the supervisor's clock.
            workers: all that live.
        """
        if now < self._next_look:
            return None
        self._next_look = now + LOOK_INTERVAL
        try:
            group = cgroup.usage(self._root)
        except cgroup.UnreadableError as error:
            self._unlimited(str(error))
            return None
        if group is None:
            self._unlimited("no memory limit applies to this group of processes")
            return None
        self._journal.memory_limit(group.limit)
        self._pids = {worker.number: worker.process.pid or 0 for worker in workers}
        verdict = self._headroom.look(now, group, [_member(worker, now) for worker in workers])
        self.short = verdict.short
        if verdict.helpless:
            self._journal.memory_helpless(group.used, group.limit)
        if verdict.replace is None:
            return None
        chosen = next(worker for worker in workers if worker.number == verdict.replace)
        own, used, limit = (size // MEGABYTE for size in (verdict.own, group.used, group.limit))
        return chosen, f"holds {own} MB of its own, all processes {used} of {limit} MB"

    def _unlimited(self, reason: str) -> None:
        self.short = False
        self._journal.no_memory_limit(reason)


def _member(worker: Handle, now: float) -> Member:
    ready = worker.ready_at
    return Member(
        number=worker.number,
        resident=worker.memory,
        age=None if ready is None else now - ready,
        requests=worker.requests,
        boot=worker.boot,
        leaving=worker.state in (WorkerState.RETIRING, WorkerState.DRAINING)
        or worker.due is Due.MEMORY,
    )
