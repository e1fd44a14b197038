"""Decides what to do about the workers now: a pure function of what is known of them.

Capacity is counted, not paired: a worker that is to be replaced makes the supervisor want one
worker more than its target, and a worker that became ready beyond the target lets one drain. So a
replacement that dies, is slow, or arrives after its predecessor died needs no special case.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

KILL_MARGIN = 10.0
"""Seconds a worker is given to end by itself after its drain and flush timeouts."""
LEAST_DRAINING = 2
"""How many may drain at once, if nothing else is said: as many as serve, but no fewer than this."""


class WorkerState(Enum):
    """Where a worker is in its life."""

    BOOTING = "booting"
    SERVING = "serving"
    RETIRING = "retiring"
    """Serving, and chosen to be replaced."""
    DRAINING = "draining"
    """Accepts nothing new, answers what it has."""


SERVING = (WorkerState.SERVING, WorkerState.RETIRING)
"""States of a worker that takes requests."""


class Due(Enum):
    """Why a worker should be replaced."""

    REQUESTS = "requests"
    MEMORY = "memory"
    LIFETIME = "lifetime"
    ROLL = "roll"
    """An operator asked for all workers to be replaced."""


@dataclass(frozen=True)
class Worker:
    """What the policy knows of one worker; times in seconds of one monotonic clock.

    Args:
        number: identifies it; later workers have higher numbers.
        state: where it is in its life.
        since: when it entered that state.
        ready_at: when it became ready; None before that.
        turned_at: when its event loop was last seen to turn.
        due: why it should be replaced, if it should.
        due_at: since when.
        memory: resident memory in bytes.
        doomed: it was killed, and its end has not been seen yet.
        postponed: it is known that its replacement has to wait until fewer workers drain.
    """

    number: int
    state: WorkerState
    since: float
    ready_at: float | None = None
    turned_at: float = 0.0
    due: Due | None = None
    due_at: float = 0.0
    memory: int = 0
    doomed: bool = False
    postponed: bool = False


@dataclass(frozen=True)
class Settings:
    """How workers are supervised; times in seconds.

    Args:
        max_restarting: how many may be in replacement at once.
        max_draining: how many may drain at once because of a limit other than memory, or a roll;
            None for as many as should serve, at least two.
        boot_timeout: a worker that is not ready by then is given up.
        drain_timeout: a draining worker that has not ended by then is killed.
        flush_timeout: how long a worker may flush records after its drain.
        hang_timeout: a worker whose event loop does not turn for that long is killed.
        min_lifetime: no limit replaces a worker that has been ready for less than that.
        slow_callback: what blocks an event loop for longer is named; 0 for nothing.
        reload_trial: how long a reload is tried with one new worker; 0 for not at all.
    """

    max_restarting: int = 1
    max_draining: int | None = None
    boot_timeout: float = 300.0
    drain_timeout: float = 600.0
    flush_timeout: float = 10.0
    hang_timeout: float = 60.0
    min_lifetime: float = 1.0
    slow_callback: float = 1.0
    reload_trial: float = 0.0

    def most_draining(self, target: int) -> int:
        """Return how many may drain at once.

        Args:
            target: how many workers should serve.
        """
        return self.max_draining or max(LEAST_DRAINING, target)


@dataclass(frozen=True)
class Demand:
    """What is wanted at the moment.

    Args:
        target: how many workers should serve.
        start_not_before: backoff: no worker is started earlier.
        ever_ready: a worker has been ready once.
        boot_failed: a worker has ended before it was ready.
        trial: one worker more should serve, to be compared; no other is replaced meanwhile.
    """

    target: int
    start_not_before: float = 0.0
    ever_ready: bool = True
    boot_failed: bool = False
    trial: bool = False


@dataclass(frozen=True)
class Start:
    """Start one worker."""


@dataclass(frozen=True)
class Retire:
    """Mark a serving worker as the next to be replaced."""

    number: int


@dataclass(frozen=True)
class Postpone:
    """Let a worker that should be replaced serve on: enough others drain."""

    number: int


@dataclass(frozen=True)
class Drain:
    """Let a worker finish what it has and end."""

    number: int


@dataclass(frozen=True)
class Kill:
    """End a worker that does not do what it should."""

    number: int
    reason: str


@dataclass(frozen=True)
class GiveUp:
    """No worker of the first generation could start: end."""


Action = Start | Retire | Postpone | Drain | Kill | GiveUp


def decide(
    now: float, workers: Sequence[Worker], settings: Settings, demand: Demand
) -> list[Action]:
    """Return what to do now, in this order.

    Args:
        now: seconds, of the clock that the workers' times are of.
        workers: all that have not been seen to end.
        settings: how workers are supervised.
        demand: what is wanted at the moment.
    """
    kills = [Kill(worker.number, reason) for worker, reason in _stuck(now, workers, settings)]
    killed = {kill.number for kill in kills}
    alive = [w for w in workers if not w.doomed and w.number not in killed]
    # One that was given up keeps its place until its end is seen, and then counts as a failure.
    booting = [w for w in workers if w.state is WorkerState.BOOTING]
    serving = [w for w in alive if w.state in SERVING]

    if demand.boot_failed and not demand.ever_ready:
        return [*kills, *([] if booting else [GiveUp()])]

    target = demand.target + demand.trial
    surplus = max(0, len(serving) - target)
    leaving = sorted(serving, key=_drain_order)[:surplus]
    staying = [w for w in serving if w not in leaving]
    draining = sum(w.state is WorkerState.DRAINING for w in workers) + len(leaving)
    chosen, postponed = _chosen(
        now,
        [] if demand.trial else staying,
        settings,
        places=settings.most_draining(demand.target) - draining,
    )
    retiring = sum(w.state is WorkerState.RETIRING for w in staying) + len(chosen)
    wanted = target + retiring - len(staying) - len(booting)
    starts = wanted if now >= demand.start_not_before else 0
    return [
        *kills,
        *(Drain(w.number) for w in leaving),
        *(Retire(w.number) for w in chosen),
        *(Postpone(w.number) for w in postponed if not w.postponed),
        *(Start() for _ in range(starts)),
    ]


def _stuck(now: float, workers: Sequence[Worker], settings: Settings) -> list[tuple[Worker, str]]:
    limits = {
        WorkerState.BOOTING: (settings.boot_timeout, "it was not ready within {:g} s"),
        WorkerState.SERVING: (settings.hang_timeout, "its event loop has not turned for {:g} s"),
        WorkerState.RETIRING: (settings.hang_timeout, "its event loop has not turned for {:g} s"),
        WorkerState.DRAINING: (settings.drain_timeout, "it had not drained within {:g} s"),
    }
    found = []
    for worker in workers:
        seconds, reason = limits[worker.state]
        draining = worker.state is WorkerState.DRAINING
        margin = settings.flush_timeout + KILL_MARGIN if draining else 0.0
        serving = worker.state in SERVING
        start = max(worker.ready_at or 0.0, worker.turned_at) if serving else worker.since
        if not worker.doomed and now - start > seconds + margin:
            found.append((worker, reason.format(seconds)))
    return found


def _chosen(
    now: float, staying: Sequence[Worker], settings: Settings, places: int
) -> tuple[list[Worker], list[Worker]]:
    """Return which to replace now, and which have to wait because enough others drain.

    Each that retires will drain. Whoever holds too much memory does not wait, but takes a place.
    """
    retiring = sum(w.state is WorkerState.RETIRING for w in staying)
    free, places = max(0, settings.max_restarting - retiring), places - retiring
    due = [w for w in staying if w.state is WorkerState.SERVING and _is_due(now, w, settings)]
    large = sum(w.due is Due.MEMORY for w in due)
    admitted = max(large, min(len(due), places))
    due.sort(key=_replacement_order)
    chosen, others = due[: min(free, admitted)], due[min(free, admitted) :]
    full = len(chosen) >= places
    return chosen, [w for w in others if full and w.due is not Due.MEMORY]


def _is_due(now: float, worker: Worker, settings: Settings) -> bool:
    if worker.due is None or worker.ready_at is None:
        return False
    return worker.due is Due.ROLL or now - worker.ready_at >= settings.min_lifetime


def _replacement_order(worker: Worker) -> tuple[int, float, float]:
    if worker.due is Due.MEMORY:
        return (0, -worker.memory, worker.due_at)
    return (1, worker.due_at, worker.number)


def _drain_order(worker: Worker) -> tuple[bool, bool, float, int]:
    return (
        worker.state is not WorkerState.RETIRING,
        worker.due is None,
        worker.since if worker.state is WorkerState.RETIRING else 0.0,
        worker.number,
    )
