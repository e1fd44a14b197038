"""The session keeper, alone: a fake slot, a fake clock, real aiohttp sessions."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

import aiohttp
import pytest

from litellm_resilience.session.backoff import Backoff
from litellm_resilience.session.keeper import SessionKeeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

if TYPE_CHECKING:
    from pytest_mock import MockerFixture


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeSlot:
    """A global variable and an initialiser that can be told to fail, raise or wait."""

    def __init__(self) -> None:
        self.session: aiohttp.ClientSession | None = None
        self.created: list[aiohttp.ClientSession] = []
        self.attempts = 0
        self.failure: Exception | None = None
        self.returns_none = False
        self.gate: asyncio.Event | None = None

    def get(self) -> aiohttp.ClientSession | None:
        return self.session

    def put(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def create(self) -> aiohttp.ClientSession | None:
        self.attempts += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if self.returns_none:
            return None
        session = aiohttp.ClientSession()
        self.created.append(session)
        return session


@pytest.fixture
def slot() -> FakeSlot:
    return FakeSlot()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def keeper(slot: FakeSlot, clock: FakeClock) -> SessionKeeper:
    return SessionKeeper(
        slot,
        logging.getLogger("test"),
        clock=clock,
        backoff=Backoff(first=1.0, factor=2.0, cap=4.0),
    )


@pytest.fixture(autouse=True)
async def _close_everything(slot: FakeSlot, keeper: SessionKeeper) -> AsyncIterator[None]:
    yield
    await keeper.aclose()
    for session in slot.created:
        await session.close()
        assert session.closed


async def started(slot: FakeSlot, keeper: SessionKeeper) -> aiohttp.ClientSession:
    """Do what LiteLLM's lifespan does at start-up."""
    session = await slot.create()
    assert session is not None
    slot.put(session)
    keeper.start_up(session)
    return session


async def test_an_open_session_is_handed_out_as_it_is(
    slot: FakeSlot, keeper: SessionKeeper
) -> None:
    session = await started(slot, keeper)
    assert await keeper.ensure() is session
    assert keeper.counters.recreated == 0


async def test_a_dead_session_is_replaced_once_for_many_callers(
    slot: FakeSlot, keeper: SessionKeeper
) -> None:
    dead = await started(slot, keeper)
    await dead.close()
    slot.gate = asyncio.Event()
    callers = [asyncio.create_task(keeper.ensure()) for _ in range(50)]
    await asyncio.sleep(0)
    slot.gate.set()
    sessions = await asyncio.gather(*callers)
    assert slot.attempts == 2
    assert set(sessions) == {slot.session}
    assert slot.session is not dead
    assert keeper.counters.recreated == 1


async def test_each_death_is_one_creation(slot: FakeSlot, keeper: SessionKeeper) -> None:
    session = await started(slot, keeper)
    for _ in range(5):
        await session.close()
        replacement = await keeper.ensure()
        assert replacement is not None
        session = replacement
    assert keeper.counters.recreated == 5
    assert keeper.counters.generation == 6


async def test_a_session_that_was_never_set_up_is_left_alone(
    slot: FakeSlot, keeper: SessionKeeper
) -> None:
    assert await keeper.ensure() is None
    assert slot.attempts == 0


async def test_a_failed_start_up_is_retried_with_capped_backoff(
    slot: FakeSlot, keeper: SessionKeeper, clock: FakeClock
) -> None:
    slot.returns_none = True
    keeper.start_up(None)
    attempts_after: list[int] = []
    for pause in (0.5, 0.5, 2.0, 4.0, 4.0, 4.0):
        clock.now += pause
        await asyncio.gather(*(keeper.ensure() for _ in range(10)))
        attempts_after.append(slot.attempts)
    assert attempts_after == [0, 1, 2, 3, 4, 5]
    slot.returns_none = False
    clock.now += 4.0
    assert await keeper.ensure() is slot.created[0]


async def test_failing_recreation_yields_no_session_and_no_exception(
    slot: FakeSlot, keeper: SessionKeeper, clock: FakeClock
) -> None:
    await (await started(slot, keeper)).close()
    slot.failure = RuntimeError("no sockets left")
    assert await keeper.ensure() is None
    assert await keeper.ensure() is None
    assert slot.attempts == 2
    slot.failure = None
    clock.now += 1.0
    assert await keeper.ensure() is slot.created[-1]


async def test_backoff_for_one_death_does_not_delay_the_next(
    slot: FakeSlot, keeper: SessionKeeper
) -> None:
    await (await started(slot, keeper)).close()
    slot.failure = RuntimeError("no sockets left")
    assert await keeper.ensure() is None
    slot.failure = None
    other = aiohttp.ClientSession()
    await other.close()
    slot.put(other)
    assert await keeper.ensure() is slot.created[-1]


async def test_cancelling_the_creator_does_not_wedge_the_others(
    slot: FakeSlot, keeper: SessionKeeper
) -> None:
    await (await started(slot, keeper)).close()
    slot.gate = asyncio.Event()
    creator = asyncio.create_task(keeper.ensure())
    await asyncio.sleep(0)
    waiter = asyncio.create_task(keeper.ensure())
    await asyncio.sleep(0)
    creator.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creator
    slot.gate.set()
    assert await asyncio.wait_for(waiter, 5) is slot.session
    assert keeper.creating is False


async def test_nothing_is_created_after_the_lifespan_has_ended(
    slot: FakeSlot, keeper: SessionKeeper
) -> None:
    session = await started(slot, keeper)
    keeper.stop()
    await session.close()
    assert await keeper.ensure() is None
    assert slot.attempts == 1


async def test_a_session_created_while_the_lifespan_ends_is_closed(
    slot: FakeSlot, keeper: SessionKeeper
) -> None:
    await (await started(slot, keeper)).close()
    slot.gate = asyncio.Event()
    late = asyncio.create_task(keeper.ensure())
    await asyncio.sleep(0)
    keeper.stop()
    slot.gate.set()
    assert await late is None
    assert slot.created[-1].closed


async def test_a_lifespan_that_starts_again_may_create_again(
    slot: FakeSlot, keeper: SessionKeeper
) -> None:
    await started(slot, keeper)
    await keeper.aclose()
    keeper.start()
    await (await started(slot, keeper)).close()
    assert await keeper.ensure() is slot.session


async def test_aclose_leaves_no_session_open(slot: FakeSlot, keeper: SessionKeeper) -> None:
    await (await started(slot, keeper)).close()
    await keeper.ensure()
    await keeper.aclose()
    assert [session.closed for session in slot.created] == [True, True]


def test_a_session_of_a_closed_loop_is_replaced_and_disposed_of(
    slot: FakeSlot, clock: FakeClock
) -> None:
    keeper = SessionKeeper(slot, logging.getLogger("test"), clock=clock)

    async def start() -> aiohttp.ClientSession:
        return await started(slot, keeper)

    async def use() -> None:
        session = await keeper.ensure()
        assert session is slot.session
        assert session is not None
        assert session is not first
        assert session._loop is asyncio.get_running_loop()
        assert first.closed
        await keeper.aclose()

    first = asyncio.run(start())
    asyncio.run(use())
    assert slot.attempts == 2


async def test_two_running_loops_keep_a_session_each(slot: FakeSlot, keeper: SessionKeeper) -> None:
    """Alternating between two loops creates one session for each, and closes neither."""
    mine = await started(slot, keeper)
    other_loop = asyncio.new_event_loop()
    thread = threading.Thread(target=other_loop.run_forever)
    thread.start()

    async def elsewhere() -> aiohttp.ClientSession | None:
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(keeper.ensure(), other_loop)
        )

    try:
        theirs = await elsewhere()
        assert theirs is not mine
        assert slot.session is theirs
        for _ in range(3):
            assert await keeper.ensure() is mine
            assert await elsewhere() is theirs
        assert not mine.closed
        assert theirs is not None
        assert not theirs.closed
        assert keeper.counters.recreated == 1
    finally:
        await keeper.aclose()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), other_loop).result(5)
        other_loop.call_soon_threadsafe(other_loop.stop)
        thread.join(5)
        other_loop.close()
    assert theirs.closed


async def test_test_doubles_are_handed_out_unguarded(
    slot: FakeSlot, keeper: SessionKeeper, mocker: MockerFixture
) -> None:
    """LiteLLM's own tests put mocks into the global."""
    double = mocker.MagicMock()
    double.closed = False
    slot.session = double
    assert await keeper.ensure() is double
