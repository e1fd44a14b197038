"""The keeper against a model: any history of deaths, failures, cancellations and shut-downs."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import aiohttp
from hypothesis import given, settings
from hypothesis import strategies as st

from litellm_resilience.session.backoff import Backoff
from litellm_resilience.session.keeper import SessionKeeper

CAP = 8.0


@dataclass
class World:
    """The global, its initialiser and the clock, with everything that was ever created."""

    now: float = 0.0
    failing: bool = False
    attempts: int = 0
    session: aiohttp.ClientSession | None = None
    created: list[aiohttp.ClientSession] = field(default_factory=list)

    def get(self) -> aiohttp.ClientSession | None:
        return self.session

    def put(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def create(self) -> aiohttp.ClientSession | None:
        self.attempts += 1
        await asyncio.sleep(0)
        if self.failing:
            return None
        session = aiohttp.ClientSession()
        self.created.append(session)
        return session

    def clock(self) -> float:
        return self.now


requests = st.tuples(st.just("request"), st.integers(1, 8))
cancelled = st.tuples(st.just("cancel"), st.integers(1, 8))
others = st.sampled_from(
    [("close", 0), ("kill connector", 0), ("fail", 0), ("recover", 0), ("wait", 0), ("restart", 0)]
)


@settings(max_examples=150)
@given(st.lists(st.one_of(requests, cancelled, others), max_size=25))
def test_any_history(history: list[tuple[str, int]]) -> None:
    asyncio.run(live_through(history))


async def live_through(history: list[tuple[str, int]]) -> None:
    world = World()
    keeper = SessionKeeper(
        world,
        logging.getLogger("test"),
        clock=world.clock,
        backoff=Backoff(first=1.0, factor=2.0, cap=CAP),
    )
    await start_up(world, keeper)
    for event, count in history:
        if event == "request":
            await check_requests(world, keeper, count)
        elif event == "cancel":
            await cancel_first_of(keeper, count)
        elif event == "restart":
            keeper.stop()
            before = world.attempts
            assert await keeper.ensure() is world.session if is_open(world) else True
            assert world.attempts == before
            await keeper.aclose()
            await start_up(world, keeper)
        else:
            await apply(world, event)
    await keeper.aclose()
    assert all(session.closed for session in world.created)


async def start_up(world: World, keeper: SessionKeeper) -> None:
    """Do what LiteLLM's lifespan does."""
    world.session = await world.create()
    keeper.start_up(world.session)


async def apply(world: World, event: str) -> None:
    if event == "close" and world.session is not None:
        await world.session.close()
    elif event == "kill connector" and world.session is not None:
        if world.session.connector is not None:
            await world.session.connector.close()
    elif event == "fail":
        world.failing = True
    elif event == "recover":
        world.failing = False
    elif event == "wait":
        world.now += CAP


async def check_requests(world: World, keeper: SessionKeeper, count: int) -> None:
    """However many ask together: one attempt at the most, and all get the same."""
    open_before, attempts = is_open(world), world.attempts
    answers = await asyncio.gather(*(keeper.ensure() for _ in range(count)))
    made = world.attempts - attempts
    assert made <= 1
    assert len({id(answer) for answer in answers}) == 1
    if open_before:
        assert made == 0
    if open_before or (made == 1 and not world.failing):
        assert answers[0] is world.session
        assert is_open(world)
    else:
        assert answers[0] is None


async def cancel_first_of(keeper: SessionKeeper, count: int) -> None:
    """The one that may hold the lock is cancelled; the others get their answer."""
    tasks = [asyncio.create_task(keeper.ensure()) for _ in range(count)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert not any(isinstance(task.exception(), Exception) for task in tasks[1:])


def is_open(world: World) -> bool:
    return world.session is not None and not world.session.closed
