"""Which tasks are work that somebody waits for."""

from __future__ import annotations

import asyncio
from asyncio import Event
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from litellm_resilience.records.work import (
    STALE_SECONDS,
    TIMER_SECONDS,
    Work,
    is_endless,
    name,
)


class Callback:
    """Has methods that are counted apart."""

    async def wait(self, until: asyncio.Event) -> None:
        await until.wait()


async def reply_later(until: asyncio.Event) -> str:
    await until.wait()
    return "done"


async def retry(seconds: float) -> None:
    for _ in range(3):
        await asyncio.sleep(seconds)


async def beat() -> None:
    while True:
        with suppress(ValueError):
            await asyncio.sleep(0.01)


async def within(inner: Callable[[], Awaitable[None]]) -> int:
    await inner()
    return 1


async def consume(queue: asyncio.Queue[str]) -> str:
    while (item := await queue.get()) != "end":
        await asyncio.sleep(0)
    return item


async def look(make: Callable[[asyncio.Event], Any]) -> tuple[list[str], list[str]]:
    """Return the names of the tasks that are found once a task has been suspended."""
    release = asyncio.Event()
    work = Work()
    work.set_apart(Callback)
    there = asyncio.create_task(reply_later(release))
    await asyncio.sleep(0)
    work.started()
    task = asyncio.create_task(make(release))
    await asyncio.sleep(0.001)
    own, apart = work.tasks()
    release.set()
    task.cancel()
    await asyncio.gather(task, there, return_exceptions=True)
    return [name(each) for each in own], [name(each) for each in apart]


async def test_what_was_there_at_the_start_is_no_work() -> None:
    work = Work()
    release = asyncio.Event()
    task = asyncio.create_task(reply_later(release))
    await asyncio.sleep(0)
    assert work.tasks() == ([task], [])
    assert work.tasks(besides={task}) == ([], [])
    work.started()
    assert work.tasks() == ([], [])
    release.set()
    await task


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (reply_later, (["reply_later"], [])),
        (lambda _: retry(TIMER_SECONDS / 2), (["retry"], [])),
        (lambda _: retry(TIMER_SECONDS), ([], [])),
        (lambda _: beat(), ([], [])),
        (lambda _: within(beat), ([], [])),
        (lambda _: consume(asyncio.Queue()), ([], [])),
        (lambda release: release.wait(), ([], [])),
        (lambda release: Callback().wait(release), ([], ["Callback.wait"])),
    ],
    ids=[
        *("a background reply", "a pause between attempts", "a timer", "an endless loop"),
        *(
            "an endless loop within",
            "a consumer",
            "a bare wait",
            "a callback",
        ),
    ],
)
async def test_only_tasks_that_somebody_waits_for_are_work(
    make: Callable[[asyncio.Event], Any], found: tuple[list[str], list[str]]
) -> None:
    assert await look(make) == found


async def test_a_consumer_of_anyios_streams_is_no_work() -> None:
    anyio = pytest.importorskip("anyio")

    async def receive(_: asyncio.Event) -> Any:
        sender, receiver = anyio.create_memory_object_stream()
        with sender, receiver:
            return await receiver.receive()

    assert await look(receive) == ([], [])


async def test_a_task_that_polls_or_is_stale_is_no_work() -> None:
    """Such as one that looks after a query engine since LiteLLM has connected anew."""
    now = 0.0
    work = Work(clock=lambda: now)
    polling, waiting = asyncio.create_task(retry(10.0)), asyncio.create_task(reply_later(Event()))
    await asyncio.sleep(0)
    assert set(work.tasks()[0]) == {polling, waiting}
    now = TIMER_SECONDS
    assert work.tasks()[0] == [waiting]
    now = STALE_SECONDS
    assert work.tasks()[0] == []
    for task in (polling, waiting):
        task.cancel()
    await asyncio.gather(polling, waiting, return_exceptions=True)


@pytest.mark.parametrize(
    ("function", "expected"), [(beat, True), (consume, False), (retry, False), (within, False)]
)
def test_a_function_is_endless_if_no_path_returns(function: Any, expected: bool) -> None:
    assert is_endless(function.__code__) is expected
