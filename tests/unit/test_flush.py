"""The flush at a worker's end: order, bounds, and what it says of losses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from litellm_resilience.records.flush import Flush, Sink

LOG = logging.getLogger("flush under test")
LONG = 30.0
SHORT = 0.4


class Box:
    """A sink whose records go when it is flushed."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.flushes = 0

    async def flush(self) -> None:
        self.flushes += 1
        self.number = 0

    def sink(self, name: str, flush: Callable[[], Awaitable[object]] | None = None) -> Sink:
        return Sink(name, lambda: self.number, flush or self.flush)


async def never() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise RuntimeError("broken on purpose")


def flush_of(*sinks: Sink) -> Flush:
    flush = Flush(LOG)
    flush.work.started()
    flush.add(lambda: sinks)
    return flush


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def test_all_sinks_are_flushed_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    boxes = [Box(2), Box(3)]
    flush = flush_of(*(box.sink(f"box {n}") for n, box in enumerate(boxes)))
    assert flush.held() == {"box 0": 2, "box 1": 3}
    await flush.run(LONG)
    assert flush.held() == {"box 0": 0, "box 1": 0}
    assert [box.flushes for box in boxes] == [1, 1]
    assert flush.lost == {}
    assert told(caplog) == []


async def test_sinks_are_flushed_after_what_goes_by_itself() -> None:
    callback, box = Box(1), Box()

    async def end_of_callback() -> None:
        await asyncio.sleep(0.02)
        callback.number, box.number = 0, 1

    flush = flush_of(Sink("callbacks", lambda: callback.number), box.sink("box"))
    ending = asyncio.create_task(end_of_callback())
    await flush.run(LONG)
    assert (box.flushes, box.number, flush.lost) == (1, 0, {})
    await ending


async def test_a_count_that_fails_is_not_taken_for_none() -> None:
    """A set of callbacks may change while it is looked through."""
    callback, box = Box(1), Box()
    looks = 0

    async def end_of_callback() -> None:
        await asyncio.sleep(0.02)
        callback.number, box.number = 0, 1

    def held() -> int:
        nonlocal looks
        looks += 1
        if looks % 2:
            raise RuntimeError("Set changed size during iteration")
        return callback.number

    def sinks() -> tuple[Sink, ...]:
        held()
        return (Sink("callbacks", held), box.sink("box"))

    flush = Flush(LOG)
    flush.add(sinks)
    ending = asyncio.create_task(end_of_callback())
    flush.work.started()
    await flush.run(LONG)
    await ending
    assert (box.flushes, box.number, flush.lost) == (1, 0, {})


async def test_a_callback_that_never_ends_leaves_time_for_the_sinks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    box = Box(2)
    flush = flush_of(Sink("callbacks", lambda: 4), box.sink("box"))
    await flush.run(SHORT)
    assert box.number == 0
    assert flush.lost == {"callbacks": 4}
    (line,) = told(caplog)
    assert "4 records for callbacks are lost: not sent within 0.4 s" in line


async def test_it_says_why_a_sink_did_not_get_its_records(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where in the code, not what the error says: that may be an address with a token."""

    async def post() -> None:
        raise ConnectionError("https://logs.test?token=secret")

    async def fail() -> None:
        await post()

    async def hang() -> None:
        await never()

    await flush_of(Sink("odd", lambda: 1, fail), Sink("slow", lambda: 1, hang)).run(SHORT)
    odd, slow = sorted(told(caplog))
    assert odd.endswith("of this worker's end (ConnectionError in _flushed > fail > post)")
    assert "(it waits in _flushed > hang > never" in slow
    assert "secret" not in odd


async def test_a_sink_that_raises_is_flushed_again(caplog: pytest.LogCaptureFixture) -> None:
    """LiteLLM's job writes counters before rows: an error of the one must not cost the others."""
    box = Box(3)
    errors = [ValueError("1"), ValueError("2")]

    async def fail_at_first() -> None:
        if errors:
            raise errors.pop()
        box.number = 0

    flush = flush_of(Sink("box", lambda: box.number, fail_at_first))
    await flush.run(LONG)
    assert (box.number, flush.lost) == (0, {})
    (line,) = told(caplog)
    assert "the flush of box went wrong" in line
    assert "no record any more (ValueError in _flushed > fail_at_first)" in line


async def test_a_sink_that_raises_and_holds_nothing_is_flushed_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempts = []

    async def fail() -> None:
        attempts.append(1)
        raise ValueError

    await flush_of(Sink("box", lambda: 0, fail)).run(LONG)
    (line,) = told(caplog)
    assert attempts == [1]
    assert "again" not in line


async def test_what_cannot_be_looked_at_costs_no_other_sink(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a callback whose attributes raise, or a module that is half imported."""
    box = Box(1)
    flush = flush_of(Sink("box", lambda: box.number, box.flush))

    def half() -> Iterator[Sink]:
        yield Sink("other", lambda: 1)
        raise AttributeError

    def none(_: object) -> Any:
        raise AttributeError

    flush.add(half)
    monkeypatch.setattr(flush.work, "tasks", none)
    assert flush.held() == {"box": 1}
    await flush.run(LONG)
    assert (box.number, flush.tasks()) == (0, ([], []))


async def test_a_late_callback_gets_a_further_flush() -> None:
    """Longer than its half of the time, and shorter than all of it."""
    callback, box = Box(1), Box()

    async def end_of_callback() -> None:
        while not box.flushes:
            await asyncio.sleep(0.001)
        callback.number, box.number = 0, 1

    flush = flush_of(Sink("callbacks", lambda: callback.number), box.sink("box"))
    ending = asyncio.create_task(end_of_callback())
    await flush.run(2.0)
    assert (box.flushes, box.number, flush.lost) == (2, 0, {})
    await ending


@pytest.mark.parametrize("fault", [never, broken])
async def test_a_dead_sink_costs_its_own_records_only(fault: Any) -> None:
    dead, box = Box(7), Box(2)
    flush = flush_of(dead.sink("dead", fault), box.sink("box"))
    await flush.run(SHORT)
    assert box.number == 0
    assert flush.lost == {"dead": 7}


async def test_what_a_sink_throws_away_with_an_error_is_lost() -> None:
    box = Box(3)

    async def throw_away() -> None:
        box.number = 1
        raise RuntimeError("broken on purpose")

    flush = flush_of(box.sink("box", throw_away))
    await flush.run(LONG)
    assert flush.lost == {"box": 3}


async def test_what_a_sink_has_taken_and_not_sent_in_time_is_lost() -> None:
    """As LiteLLM's job does that writes spend."""
    box = Box(3)

    async def take() -> None:
        box.number = 0
        await never()

    flush = flush_of(box.sink("box", take))
    await flush.run(SHORT)
    assert flush.lost == {"box": 3}


async def test_a_sink_that_is_cancelled_by_others_costs_its_own_records_only() -> None:
    cancelled, box = Box(3), Box(2)

    async def throw_away() -> None:
        cancelled.number = 0
        raise asyncio.CancelledError

    flush = flush_of(cancelled.sink("cancelled", throw_away), box.sink("box"))
    await flush.run(LONG)
    assert (box.number, flush.lost) == (0, {"cancelled": 3})


async def test_a_sink_that_is_replaced_while_it_is_flushed_is_counted_too() -> None:
    former, latter = Box(3), Box(2)
    there = [former]

    async def reconnect() -> None:
        there[:] = [latter]
        await never()

    flush = Flush(LOG)
    flush.work.started()
    flush.add(lambda: [Sink("box", lambda b=b: b.number, reconnect, b) for b in there])  # type: ignore[misc]
    await flush.run(SHORT)
    assert flush.lost == {"box": 5}


async def test_a_source_that_fails_hides_no_other() -> None:
    box = Box(1)
    flush = flush_of(box.sink("box"), Sink("odd", lambda: 1 // 0))
    flush.add(lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    await flush.run(LONG)
    assert (box.number, flush.lost) == (0, {})


async def test_a_task_that_a_reply_has_left_is_waited_for_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []

    async def background_reply() -> None:
        await asyncio.sleep(0.02)
        done.append("replied")

    async def lost_reply() -> str:
        await never()
        return "lost"

    flush = flush_of()
    task = asyncio.create_task(background_reply())
    await asyncio.sleep(0)
    await flush.run(LONG)
    assert done == ["replied"]
    await task
    hanging = asyncio.create_task(lost_reply())
    await asyncio.sleep(0)
    await flush.run(SHORT)
    assert len(told(caplog)) == 1
    assert "1 tasks were not done" in told(caplog)[0]
    assert "lost_reply" in told(caplog)[0]
    hanging.cancel()
