"""The state of every worker, in memory that the supervisor and all workers share.

One row for each worker, without locks: every field has one writer and is written whole. A row is
used again when its worker has ended, and its counts go on from where they stood, so that a sum over
all rows never goes down.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.exits import Cause
from litellm_resilience.supervisor.note import Note
from litellm_resilience.supervisor.policy import Due, WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from multiprocessing.context import BaseContext

    from typing_extensions import Self

CAPACITY = 256
"""How many workers there can be at once, draining ones included, unless more are wanted."""
GROWTH_LENGTH = 8191
"""How many bytes are kept of what a worker tells of its growth."""
REASON_LENGTH = 80
"""How many bytes are kept of why a worker is to be replaced."""
SINKS = 8
"""How many sinks of records a worker names; what it holds for more is counted with the last."""
SINK_LENGTH = 32
"""How many bytes are kept of the name of a sink."""
BLOCKERS = 8
"""How many modules that block its event loop a worker names; all others are counted as `other`."""
BLOCKER_LENGTH = 64
"""How many bytes are kept of the name of such a module."""
OTHER = b"other"
STATES = tuple(WorkerState)
DUES = tuple(Due)
CAUSES = tuple(Cause)
START_METHODS = ("spawned", "forked", "template")
"""How workers are started; `template` stands for: forked from one."""
BOOT_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
DRAIN_SECONDS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Counts(ctypes.Structure):
    """What only ever grows."""

    _fields_ = (
        ("requests", ctypes.c_uint64),
        ("sessions_recreated", ctypes.c_uint64),
        ("closes_prevented", ctypes.c_uint64),
        ("pool_waits", ctypes.c_uint64),
    )
    requests: int
    sessions_recreated: int
    closes_prevented: int
    pool_waits: int


COUNTED = tuple(name for name, *_ in Counts._fields_)


class AnsweredCounts(ctypes.Structure):
    """What a worker has answered; see `trial.Answered`."""

    _fields_ = (
        ("replies", ctypes.c_uint64),
        ("errors", ctypes.c_uint64),
        ("refusals", ctypes.c_uint64),
        ("seconds", ctypes.c_double),
    )
    replies: int
    errors: int
    refusals: int
    seconds: float


class SinkRecords(ctypes.Structure):
    """The records of a worker for one sink."""

    _fields_ = (
        ("name", ctypes.c_char * SINK_LENGTH),
        ("held", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
    )
    name: bytes
    """Empty while no sink has it."""
    held: int
    lost: int
    """Including by the earlier workers of this row."""


class Blocker(ctypes.Structure):
    """A module that has blocked the event loop."""

    _fields_ = (("name", ctypes.c_char * BLOCKER_LENGTH), ("times", ctypes.c_uint64))
    name: bytes
    """Empty while no module has it."""
    times: int
    """Including by the earlier workers of this row."""


class Row(ctypes.Structure):
    """One worker. Times are seconds of the monotonic clock, 0 before they have come."""

    _fields_ = (
        ("number", ctypes.c_uint64),
        ("generation", ctypes.c_uint64),
        ("pid", ctypes.c_int64),
        ("state_code", ctypes.c_uint64),
        ("started_at", ctypes.c_double),
        ("ready_at", ctypes.c_double),
        ("request_limit", ctypes.c_uint64),
        ("memory", ctypes.c_uint64),
        ("reason", ctypes.c_char * REASON_LENGTH),
        ("before", Counts),
        ("turned_at", ctypes.c_double),
        ("in_flight", ctypes.c_uint64),
        ("accepting", ctypes.c_uint64),
        ("connections", ctypes.c_uint64),
        ("load", ctypes.c_uint64),
        ("taken_at", ctypes.c_double),
        ("lag", ctypes.c_double),
        ("session_generation", ctypes.c_uint64),
        ("counts", Counts),
        ("answered", AnsweredCounts),
        ("sinks", SinkRecords * SINKS),
        ("growth", ctypes.c_char * (GROWTH_LENGTH + 1)),
        ("watched_at", ctypes.c_double),
        ("blockers", Blocker * BLOCKERS),
    )
    number: int
    generation: int
    """How many workers have had this row."""
    pid: int
    state_code: int
    """0 while no worker has this row."""
    started_at: float
    ready_at: float
    request_limit: int
    """0 without a limit."""
    memory: int
    reason: bytes
    """Why it is to be replaced."""
    before: Counts
    """What the earlier workers of this row have counted."""
    turned_at: float
    """From here on, the worker writes."""
    in_flight: int
    accepting: int
    """1 while it takes connections by share."""
    connections: int
    load: int
    """What its share is measured by."""
    taken_at: float
    """When it last took a connection by share."""
    lag: float
    session_generation: int
    counts: Counts
    answered: AnsweredCounts
    sinks: ctypes.Array[SinkRecords]
    """After the worker's end the supervisor writes these."""
    growth: bytes
    """What the worker has told at its end, as `growth` encodes it."""
    watched_at: float
    """When a thread of the worker last looked whether the loop turns."""
    blockers: ctypes.Array[Blocker]

    @property
    def state(self) -> WorkerState | None:
        """Where its worker is in its life; None if no worker has it, or it was overwritten."""
        return STATES[self.state_code - 1] if 0 < self.state_code <= len(STATES) else None

    @state.setter
    def state(self, state: WorkerState | None) -> None:
        self.state_code = 0 if state is None else STATES.index(state) + 1

    @property
    def requests(self) -> int:
        """How many requests its worker has answered."""
        return self.counts.requests - self.before.requests

    @property
    def records(self) -> int:
        """How many records its worker holds."""
        return sum(sink.held for sink in self.sinks)

    def hold(self, records: Mapping[str, int]) -> None:
        """Note how many records are held.

        Args:
            records: numbers by the name of the sink; of sinks that are missing none are held.
        """
        held = Counter[bytes]()
        for name, number in records.items():
            held[self._sink(name).name] += number
        for sink in self.sinks:
            sink.held = held[sink.name]

    def lose(self, records: Mapping[str, int]) -> None:
        """Count records as lost.

        Args:
            records: numbers by the name of the sink.
        """
        for name, number in records.items():
            self._sink(name).lost += number

    def lose_held(self) -> int:
        """Count what is held as lost, at the worker's end; return how many records that was."""
        held = self.records
        for sink in self.sinks:
            sink.lost += sink.held
            sink.held = 0
        return held

    def _sink(self, name: str) -> SinkRecords:
        encoded = name.encode()[: SINK_LENGTH - 1]
        for sink in self.sinks:
            if sink.name in (encoded, b""):
                sink.name = encoded
                return sink
        return self.sinks[SINKS - 1]

    def count_block(self, module: str) -> None:
        """Count that a module has blocked the event loop."""
        encoded = module.encode(errors="replace")[: BLOCKER_LENGTH - 1]
        for blocker in self.blockers[: BLOCKERS - 1]:
            if blocker.name in (encoded, b""):
                break
        else:
            blocker, encoded = self.blockers[BLOCKERS - 1], OTHER
        blocker.name = encoded
        blocker.times += 1

    @property
    def own_counts(self) -> dict[str, int]:
        """What its worker has counted, without the earlier ones."""
        return {name: getattr(self.counts, name) - getattr(self.before, name) for name in COUNTED}


def _histogram(bounds: Sequence[float]) -> Any:
    class Histogram(ctypes.Structure):
        _fields_ = (("counts", ctypes.c_uint64 * (len(bounds) + 1)), ("sum", ctypes.c_double))

        def observe(self, seconds: float) -> None:
            self.counts[bisect_left(bounds, seconds)] += 1
            self.sum += seconds

    return Histogram


class Totals(ctypes.Structure):
    """What the supervisor counts."""

    _fields_ = (
        ("turned_at", ctypes.c_double),
        ("ending", ctypes.c_uint64),
        ("target", ctypes.c_uint64),
        ("start_method_code", ctypes.c_uint64),
        ("template_pid", ctypes.c_int64),
        ("metrics_place", ctypes.c_uint64),
        ("memory_is_short", ctypes.c_bool),
        ("started", ctypes.c_uint64),
        ("boot_failures", ctypes.c_uint64),
        ("recycled", ctypes.c_uint64 * len(DUES)),
        ("died", ctypes.c_uint64 * len(CAUSES)),
        ("boot", _histogram(BOOT_SECONDS)),
        ("drain", _histogram(DRAIN_SECONDS)),
    )
    turned_at: float
    """When the supervisor last turned, in seconds of the monotonic clock."""
    ending: int
    """1 once it has been asked to end."""
    target: int
    """How many workers should serve."""
    start_method_code: int
    template_pid: int
    """Written by the template, 0 without one."""
    metrics_place: int
    """Tells this supervisor's metric files from those of others in the same directory."""
    memory_is_short: bool
    """Workers should not keep connections alive."""
    started: int
    boot_failures: int
    recycled: Any
    """By why, in the order of `DUES`."""
    died: Any
    """By cause, in the order of `CAUSES`."""
    boot: Any
    drain: Any

    @property
    def start_method(self) -> str:
        """How workers are started."""
        code = self.start_method_code
        return START_METHODS[code] if code < len(START_METHODS) else START_METHODS[0]

    @start_method.setter
    def start_method(self, method: str) -> None:
        self.start_method_code = START_METHODS.index(method)

    @property
    def recycled_by_reason(self) -> dict[str, int]:
        """How many workers were replaced for each reason."""
        return {due.value: self.recycled[index] for index, due in enumerate(DUES)}

    @property
    def died_by_cause(self) -> dict[str, int]:
        """How many workers ended unasked of each cause."""
        return {cause.value: self.died[index] for index, cause in enumerate(CAUSES)}

    def count_recycled(self, due: Due) -> None:
        """Count a worker whose replacement serves."""
        self.recycled[DUES.index(due)] += 1

    def count_died(self, cause: Cause) -> None:
        """Count a worker that ended unasked."""
        self.died[CAUSES.index(cause)] += 1


class Scoreboard:
    """All rows and the supervisor's totals; can be sent to a worker that is being started.

    Args:
        rows: one for each worker there can be at once.
        totals: what the supervisor counts.
        note: what workers leave for each other.
    """

    def __init__(self, rows: Any, totals: Totals, note: Note) -> None:
        self._rows = rows
        self.totals = totals
        self.note = note

    @classmethod
    def create(cls, context: BaseContext, capacity: int = CAPACITY) -> Self:
        """Make an empty one that workers of this start method can share.

        Forked workers share anonymous memory: the file that spawned ones need may be on a file
        system that is full, where the first write would kill the process.
        """
        row_array = Row * capacity
        rows: Any
        totals: Any
        note: Any
        forked = context.get_start_method() == "fork"
        if forked:
            rows = row_array.from_buffer(mmap.mmap(-1, ctypes.sizeof(row_array)))
            totals = Totals.from_buffer(mmap.mmap(-1, ctypes.sizeof(Totals)))
            note = Note.from_buffer(mmap.mmap(-1, ctypes.sizeof(Note)))
        else:
            rows, totals = context.RawArray(Row, capacity), context.RawValue(Totals)
            note = context.RawValue(Note)
        return cls(rows, totals, note)

    @classmethod
    def for_workers(cls, context: BaseContext, workers: int) -> Self:
        """Make an empty one with room for these workers, their replacements, and more."""
        return cls.create(context, max(CAPACITY, 4 * workers))

    @property
    def capacity(self) -> int:
        """How many workers there can be at once."""
        return len(self._rows)

    def row(self, slot: int) -> Row:
        """Return one row."""
        found: Row = self._rows[slot]
        return found

    def rows(self) -> list[Row]:
        """Return all rows, in use or not."""
        return list(self._rows)

    def claim(self) -> int:
        """Return the number of a row for one more worker, which may keep it until `release`.

        Raises:
            BlockingIOError: if every row is in use.
        """
        for slot, row in enumerate(self._rows):
            if not row.state_code:
                row.generation += 1
                row.before = row.counts
                row.state = WorkerState.BOOTING
                row.reason = row.growth = b""
                row.answered = AnsweredCounts()
                row.pid = row.number = row.request_limit = row.memory = 0
                row.in_flight = row.session_generation = 0
                row.started_at = row.ready_at = row.turned_at = row.lag = row.watched_at = 0.0
                row.taken_at = 0.0
                row.accepting = row.connections = row.load = 0
                return slot
        raise BlockingIOError(errno.EAGAIN, f"all {len(self._rows)} rows for workers are in use")

    def lost_records(self) -> dict[str, int]:
        """Return how many records were lost, by the name of their sink."""
        lost = Counter[str]()
        for row in self._rows:
            for sink in row.sinks:
                if sink.lost:
                    lost[sink.name.decode(errors="replace")] += sink.lost
        return dict(lost)

    def blocks(self) -> dict[str, int]:
        """Return how often an event loop was blocked, by the module that did it."""
        times = Counter[str]()
        for row in self._rows:
            for blocker in row.blockers:
                if blocker.times:
                    times[blocker.name.decode(errors="replace")] += blocker.times
        return dict(times)

    def release(self, slot: int) -> None:
        """Give a row back; its counts stay."""
        self.row(slot).state = None

    def living(self) -> Iterator[tuple[int, Row]]:
        """Yield the rows that a worker has, with their numbers."""
        for slot, row in enumerate(self._rows):
            if row.state is not None:
                yield slot, row

    def counted(self) -> dict[str, int]:
        """Return the counts of all workers, including those that have ended."""
        return {name: sum(getattr(row.counts, name) for row in self._rows) for name in COUNTED}


_entered: tuple[Scoreboard, int] | None = None


def enter(board: Scoreboard, slot: int) -> None:
    """Make this process known as the worker that has this row."""
    global _entered  # noqa: PLW0603
    _entered = (board, slot)


def entered() -> tuple[Scoreboard, int] | None:
    """Return the scoreboard and this process's row, if it is a supervised worker."""
    return _entered
