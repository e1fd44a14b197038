"""Which tasks of an event loop are work in hand: what replies have left behind.

A background response, for example, goes on in a task after its reply. Work in hand is each task
that was not there when the worker had started, but for those that nobody waits for: endless ones,
consumers with nothing to consume, timers, polls, and what only waits for another task's signal.
"""

from __future__ import annotations

import asyncio
import dis
import functools
import sys
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import CodeType, FrameType

TIMER_SECONDS = 60.0
"""A task that sleeps for so long or longer waits for a moment, not for work: no retry waits longer,
and an alert of a reply that takes too long does. One that is so old, and asleep, polls."""
STALE_SECONDS = 600.0
"""Nobody waits so long for what goes on after a reply."""

_LINKS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
_RETURNS = frozenset({"RETURN_VALUE", "RETURN_CONST"})
_SLEEP = asyncio.sleep.__code__
_ASYNCIO = str(Path(asyncio.__file__).parent)
_ANYIO_STREAMS = "anyio.streams.memory"


class Work:
    """The work in hand of one event loop.

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._apart: tuple[type, ...] = ()
        self._clock = clock
        self._seen: weakref.WeakKeyDictionary[asyncio.Task[Any], float]
        self._seen = weakref.WeakKeyDictionary()
        self._there: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def started(self) -> None:
        """Note that the tasks of now are not work: the worker has started."""
        self._there = weakref.WeakSet(asyncio.all_tasks())

    def set_apart(self, *types: type) -> None:
        """Add types: a task with a method of one of them on its stack is counted apart."""
        self._apart = (*self._apart, *types)

    def tasks(
        self, besides: Collection[asyncio.Task[Any]] = ()
    ) -> tuple[list[asyncio.Task[Any]], list[asyncio.Task[Any]]]:
        """Return the tasks in hand, and those of them that are counted apart.

        Args:
            besides: tasks that are known otherwise, such as requests that are being answered.
        """
        own: list[asyncio.Task[Any]] = []
        apart: list[asyncio.Task[Any]] = []
        current = asyncio.current_task()
        consumers = _consumers()
        now = self._clock()
        for task in asyncio.all_tasks():
            if task is current or task in self._there or task in besides:
                continue
            frames = list(stack(task))
            age = now - self._seen.setdefault(task, now)
            if not frames or age >= STALE_SECONDS or _waits_for_nobody(frames, age, consumers):
                continue
            (apart if self._is_apart(frames) else own).append(task)
        return own, apart

    def _is_apart(self, frames: list[FrameType]) -> bool:
        return any(isinstance(frame.f_locals.get("self"), self._apart) for frame in frames)


def stack(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Yield the frames of a task that is suspended, the outermost first."""
    waiting: Any = task.get_coro()
    while waiting is not None:
        for frame_name, next_name in _LINKS:
            frame = getattr(waiting, frame_name, None)
            if frame is not None:
                yield frame
                waiting = getattr(waiting, next_name)
                break
        else:
            return


def name(task: asyncio.Task[Any]) -> str:
    """Return the name of the function that a task runs."""
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", None) or type(coroutine).__name__


def _waits_for_nobody(frames: list[FrameType], age: float, consumers: Collection[CodeType]) -> bool:
    innermost = frames[-1]
    if innermost.f_code is _SLEEP and max(age, innermost.f_locals["delay"]) >= TIMER_SECONDS:
        return True
    if all(frame.f_code.co_filename.startswith(_ASYNCIO) for frame in frames):
        return True
    return any(frame.f_code in consumers or is_endless(frame.f_code) for frame in frames)


@functools.cache
def is_endless(code: CodeType) -> bool:
    """Say whether a function can only end by an exception: no path through it returns."""
    return not any(step.opname in _RETURNS for step in dis.get_instructions(code))


def _consumers() -> set[CodeType]:
    """Return the functions in which a consumer waits for something to be produced."""
    found = {asyncio.Queue.get.__code__}
    streams = sys.modules.get(_ANYIO_STREAMS)
    if streams is not None:
        found.add(streams.MemoryObjectReceiveStream.receive.__code__)
    return found
