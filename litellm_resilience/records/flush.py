"""The flush at the end of a worker: what it holds goes where it belongs, in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from litellm_resilience.records.work import Work, name, stack

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
    from types import FrameType

    Task = asyncio.Task[Any]

T = TypeVar("T")

POLL_SECONDS = 0.01
"""Between two looks at what is still being worked on."""
LAST_ROUND_SECONDS = 0.2
"""With less time left, no further round begins."""
TRIES = 5
"""Of what says how much there is to do."""
CANCEL_SECONDS = 0.2
"""For a sink that was cancelled to unwind."""
RETRY_PAUSES = (0.1, 0.5)
"""Seconds after which a sink that has raised an error, and holds records, is flushed again."""
PLACE_LENGTH = 200
"""So many characters are said of where a sink stands."""


@dataclass(frozen=True)
class Sink:
    """One place that records go to.

    Args:
        name: how operators know it.
        held: returns how many records for it are held now.
        flush: sends them; may be called when there are none. If it raises, what is no longer held
            is lost. None if they go by themselves.
        owner: the object that holds them, by which one of several with the same name is known.
    """

    name: str
    held: Callable[[], int]
    flush: Callable[[], Awaitable[object]] | None = None
    owner: object = None


class Flush:
    """All sinks of a process.

    Args:
        log: where losses are reported.

    Attributes:
        work: the work in hand; tasks apart are callbacks, which are records too.
    """

    def __init__(self, log: logging.Logger) -> None:
        self.work = Work()
        self._log = log
        self._sources: list[Callable[[], list[Sink]]] = []
        self._lost: Counter[str] = Counter()
        self._why: dict[str, str] = {}

    def add(self, source: Callable[[], Iterable[Sink]]) -> None:
        """Add a function that returns the sinks of now; sinks may come and go."""
        self._sources.append(lambda: list(source()))

    def sinks(self) -> list[Sink]:
        """Return the sinks of now."""
        found: list[Sink] = []
        for source in self._sources:
            found += _tried(source, [])
        return found

    def held(self) -> dict[str, int]:
        """Return how many records are held now, by the name of their sink."""
        counts: Counter[str] = Counter()
        for sink in self.sinks():
            counts[sink.name] += _number(sink.held)
        return dict(counts)

    def tasks(self, besides: Collection[Task] = ()) -> tuple[list[Task], list[Task]]:
        """Return what `Work.tasks` does, or nothing if that cannot be told."""
        nothing: tuple[list[Task], list[Task]] = ([], [])
        return _tried(lambda: self.work.tasks(besides), nothing)

    @property
    def lost(self) -> Mapping[str, int]:
        """How many records this process knows to have lost, by the name of their sink."""
        return self._lost

    async def run(self, timeout: float) -> None:
        """Send everything that is held, and say what could not be sent.

        In rounds, because a callback that ends late leaves records to a sink that was flushed.
        What is slow costs at most half of the time that is left in a round, so that the sinks that
        are not get theirs.

        Args:
            timeout: seconds for all of it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        known: dict[tuple[str, int], Sink] = {}
        while True:
            left = deadline - loop.time()
            settled = await self._settle(loop.time() + left / 2)
            known |= {(sink.name, id(sink.owner)): sink for sink in self.sinks()}
            pending = await self._flush_sinks(known.values(), deadline)
            if (settled and not self._in_motion()) or deadline - loop.time() < LAST_ROUND_SECONDS:
                break
        known |= {(sink.name, id(sink.owner)): sink for sink in self.sinks()}
        await self._give_up(known.values(), pending)
        self._report(timeout)

    def _in_motion(self) -> int:
        """Return how many callbacks and tasks are still at work."""
        own, apart = self.tasks()
        by_themselves = (sink for sink in self.sinks() if sink.flush is None)
        return len(own) + len(apart) + sum(_number(sink.held) for sink in by_themselves)

    async def _settle(self, deadline: float) -> bool:
        """Wait for what goes by itself; say whether it is done."""
        loop = asyncio.get_running_loop()
        while self._in_motion():
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    async def _flush_sinks(self, sinks: Iterable[Sink], deadline: float) -> set[asyncio.Task[Any]]:
        """Flush sinks side by side; return what has not ended in time."""
        loop = asyncio.get_running_loop()
        running = [
            loop.create_task(self._flushed(sink, sink.flush), name=sink.name)
            for sink in sinks
            if sink.flush is not None
        ]
        if running:
            await asyncio.wait(running, timeout=max(0.0, deadline - loop.time()))
        return {task for task in running if not task.done()}

    async def _flushed(self, sink: Sink, flush: Callable[[], Awaitable[object]]) -> None:
        """Flush a sink, again if it raises; that, or that it is cancelled, concerns no other."""
        for pause in (*RETRY_PAUSES, None):
            before = _number(sink.held)
            try:
                await flush()
            except (Exception, asyncio.CancelledError) as error:
                left = _number(sink.held)
                self._lost[sink.name] += max(0, before - left)
                # What it says may be secret, such as an address with a token.
                frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
                self._why.setdefault(sink.name, f"{type(error).__name__} in {_place(frames)}")
                if not left or pause is None or isinstance(error, asyncio.CancelledError):
                    return
                await asyncio.sleep(pause)
            else:
                return

    async def _give_up(self, sinks: Iterable[Sink], pending: set[asyncio.Task[Any]]) -> None:
        """Cancel what has not ended, which may throw away what it has taken; count what is left."""
        for task in pending:
            self._why.setdefault(task.get_name(), f"it waits in {_place(stack(task))}")
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=CANCEL_SECONDS)
        for sink in sinks:
            self._lost[sink.name] += _number(sink.held)

    def _report(self, timeout: float) -> None:
        self._lost = +self._lost
        for sink, number in self._lost.items():
            self._log.warning(
                "litellm-resilience: %d records for %s are lost: not sent within %g s "
                "of this worker's end%s",
                number,
                sink,
                timeout,
                f" ({self._why[sink]})" if sink in self._why else "",
            )
        for sink, why in self._why.items():
            if sink not in self._lost:
                self._log.warning(
                    "litellm-resilience: the flush of %s went wrong at this worker's end, "
                    "but it holds no record any more (%s)",
                    sink,
                    why,
                )
        own, _ = self.tasks()
        for task, number in Counter(map(name, own)).items():
            self._log.warning(
                "litellm-resilience: %d tasks were not done at this worker's end: %s", number, task
            )


def _place(frames: Iterable[FrameType]) -> str:
    """Return where in the code something is, the innermost function last."""
    return " > ".join(frame.f_code.co_name for frame in frames)[-PLACE_LENGTH:]


def _number(count: Callable[[], int]) -> int:
    return _tried(count, 0)


def _tried(ask: Callable[[], T], otherwise: T) -> T:
    """Ask more than once: what is counted may change meanwhile, by a thread or a finaliser.

    Taken for nothing, callbacks that still run would outlive the database.
    """
    for _ in range(TRIES):
        with contextlib.suppress(Exception):
            return ask()
    return otherwise
