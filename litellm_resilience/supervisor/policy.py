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


class WorkerState(Enum):
    """Where a worker is in its life."""

    BOOTING = "booting"
    SERVING = "serving"
    RETIRING = "retiring"
    """Serving, and chosen to be replaced."""
    DRAINING = "draining"
    """Accepts nothing new, answers what it has."""


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


@dataclass(frozen=True)
class Settings:
    """How workers are supervised; times in seconds.

    Args:
        max_restarting: how many may be in replacement at once.
        boot_timeout: a worker that is not ready by then is given up.
        drain_timeout: a draining worker that has not ended by then is killed.
        flush_timeout: how long a worker may flush records after its drain.
        hang_timeout: a worker whose event loop does not turn for that long is killed.
        min_lifetime: no limit replaces a worker that has been ready for less than that.
    """

    max_restarting: int = 1
    boot_timeout: float = 300.0
    drain_timeout: float = 600.0
    flush_timeout: float = 10.0
    hang_timeout: float = 60.0
    min_lifetime: float = 1.0


@dataclass(frozen=True)
class Demand:
    """What is wanted at the moment.

    Args:
        target: how many workers should serve.
        start_not_before: backoff: no worker is started earlier.
        ever_ready: a worker has been ready once.
        boot_failed: a worker has ended before it was ready.
    """

    target: int
    start_not_before: float = 0.0
    ever_ready: bool = True
    boot_failed: bool = False


@dataclass(frozen=True)
class Start:
    """Start one worker."""


@dataclass(frozen=True)
class Retire:
    """Mark a serving worker as the next to be replaced."""

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


Action = Start | Retire | Drain | Kill | GiveUp


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
    serving = [w for w in alive if w.state in (WorkerState.SERVING, WorkerState.RETIRING)]

    if demand.boot_failed and not demand.ever_ready:
        return [*kills, *([] if booting else [GiveUp()])]

    surplus = max(0, len(serving) - demand.target)
    leaving = sorted(serving, key=_drain_order)[:surplus]
    staying = [w for w in serving if w not in leaving]
    chosen = _chosen(now, staying, settings)
    retiring = sum(w.state is WorkerState.RETIRING for w in staying) + len(chosen)
    wanted = demand.target + retiring - len(staying) - len(booting)
    starts = wanted if now >= demand.start_not_before else 0
    return [
        *kills,
        *(Drain(w.number) for w in leaving),
        *(Retire(w.number) for w in chosen),
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
        serving = worker.state in (WorkerState.SERVING, WorkerState.RETIRING)
        start = max(worker.ready_at or 0.0, worker.turned_at) if serving else worker.since
        if not worker.doomed and now - start > seconds + margin:
            found.append((worker, reason.format(seconds)))
    return found


def _chosen(now: float, staying: Sequence[Worker], settings: Settings) -> list[Worker]:
    free = settings.max_restarting - sum(w.state is WorkerState.RETIRING for w in staying)
    due = [w for w in staying if w.state is WorkerState.SERVING and _is_due(now, w, settings)]
    return sorted(due, key=_replacement_order)[: max(0, free)]


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
