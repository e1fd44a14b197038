"""The keeper while a creation is under way: requests, cancellations, closes and shut-down meet it.

Every step runs until nothing more can happen, so that a creation stands at its await until a later
step lets it go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from litellm_resilience.session.backoff import Backoff
from litellm_resilience.session.keeper import SessionKeeper

CAP = 8.0
TURNS = 12
"""More turns of the event loop than any step needs,"""
TURNS_EACH = 4
"""and more than a request takes to pass the lock on to the next."""
OUTCOMES = ["session", "none", "error"]


@dataclass
class World:
    """The global, its initialiser and the clock."""

    now: float = 0.0
    session: aiohttp.ClientSession | None = None
    created: list[aiohttp.ClientSession] = field(default_factory=list)
    paused: list[asyncio.Future[str]] = field(default_factory=list)
    attempts: int = 0
    under_way: int = 0

    def get(self) -> aiohttp.ClientSession | None:
        return self.session

    def put(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def create(self) -> aiohttp.ClientSession | None:
        self.attempts += 1
        self.under_way += 1
        pause: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.paused.append(pause)
        try:
            outcome = await pause
        finally:
            self.paused.remove(pause)
            self.under_way -= 1
        if outcome == "error":
            raise OSError("no session on purpose")
        return self.make() if outcome == "session" else None

    def make(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession()
        self.created.append(session)
        return session

    @property
    def usable(self) -> bool:
        return self.session is not None and not self.session.closed


class KeeperMachine(RuleBasedStateMachine):
    """Any interleaving."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.keeper = SessionKeeper(
            self.world,
            logging.getLogger("test"),
            clock=lambda: self.world.now,
            backoff=Backoff(first=1.0, factor=2.0, cap=CAP),
        )
        self.requests: list[asyncio.Task[aiohttp.ClientSession | None]] = []
        self.strangers: list[aiohttp.ClientSession] = []
        self.stopped = False
        self.deaths = 0
        self.attempts_at_stop = 0

    def do(self, what: Coroutine[Any, Any, Any]) -> Any:
        """Let something happen, and everything that follows from it."""

        async def settle() -> Any:
            result = await what
            for _ in range(TURNS + TURNS_EACH * len(self.requests)):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(asyncio.wait_for(settle(), 10))

    async def _start_up(self, *, succeeds: bool) -> None:
        self.keeper.start()
        self.world.session = self.world.make() if succeeds else None
        self.keeper.start_up(self.world.session)
        self.deaths += not succeeds

    @initialize(succeeds=st.booleans())
    def begin(self, succeeds: bool) -> None:
        self.do(self._start_up(succeeds=succeeds))

    @rule(count=st.integers(1, 4))
    def ask(self, count: int) -> None:
        async def start() -> None:
            self.requests += [asyncio.ensure_future(self.keeper.ensure()) for _ in range(count)]

        usable = self.world.usable
        before = len(self.requests)
        self.do(start())
        for request in self.requests[before:]:
            if usable:
                assert request.result() is self.world.session
            elif self.stopped:
                assert request.result() is None

    @precondition(lambda self: self.pending)
    @rule(choice=st.integers(0, 9))
    def cancel_one(self, choice: int) -> None:
        """Also the one that holds the lock, which is the first."""
        request = self.pending[choice % len(self.pending)]
        request.cancel()
        self.do(asyncio.sleep(0))
        assert request.cancelled()

    @precondition(lambda self: self.pending)
    @rule()
    def cancel_the_holder(self) -> None:
        others = self.pending[1:]
        self.cancel_one(0)
        assert self.world.paused or all(request.done() for request in others)

    @precondition(lambda self: self.pending)
    @rule()
    def cancel_all(self) -> None:
        for request in self.pending:
            request.cancel()
        self.do(asyncio.sleep(0))
        assert not self.world.paused

    @precondition(lambda self: self.world.paused)
    @rule(outcome=st.sampled_from(OUTCOMES), cancel=st.booleans())
    def creation_goes_on(self, outcome: str, cancel: bool) -> None:
        """With `cancel`, whoever waits for it is cancelled in the same turn."""
        holder = self.pending[0]
        usable = self.world.usable
        self.world.paused[0].set_result(outcome)
        if cancel:
            holder.cancel()
        self.do(asyncio.sleep(0))
        assert holder.done()
        if outcome == "session" and not (self.stopped or cancel or usable):
            assert holder.result() is self.world.session
            assert all(request.done() for request in self.requests)

    @precondition(lambda self: self.world.usable)
    @rule()
    def close(self) -> None:
        assert self.world.session is not None
        self.do(self.world.session.close())
        self.deaths += 1

    @precondition(lambda self: self.world.usable)
    @rule()
    def kill_connector(self) -> None:
        assert self.world.session is not None
        assert self.world.session.connector is not None
        self.do(self._close_connector(self.world.session.connector))
        self.deaths += 1

    async def _close_connector(self, connector: aiohttp.BaseConnector) -> None:
        await connector.close()

    @precondition(lambda self: self.world.session is not None and not self.world.usable)
    @rule()
    def somebody_else_makes_one(self) -> None:
        self.do(self._put_a_strangers())

    async def _put_a_strangers(self) -> None:
        session = self.world.make()
        self.strangers.append(session)
        self.world.put(session)

    async def _end_lifespan(self) -> None:
        """Whoever has made a session behind the keeper's back closes it, all others the keeper."""
        for session in self.strangers:
            if not session.closed:
                await session.close()
        await self.keeper.aclose()

    @rule()
    def wait(self) -> None:
        self.world.now += CAP

    @precondition(lambda self: not self.stopped)
    @rule()
    def stop(self) -> None:
        async def stop() -> None:
            self.keeper.stop()

        self.do(stop())
        self.stopped = True
        self.attempts_at_stop = self.world.attempts

    @precondition(lambda self: self.stopped)
    @rule(succeeds=st.booleans())
    def restart(self, succeeds: bool) -> None:
        """End the lifespan and begin another, a creation of the last one still being under way."""
        self.do(self._end_lifespan())
        self.check_all_closed(self.world.created)
        self.do(self._start_up(succeeds=succeeds))
        self.stopped = False

    @property
    def pending(self) -> list[asyncio.Task[aiohttp.ClientSession | None]]:
        return [request for request in self.requests if not request.done()]

    @invariant()
    def one_creation_at_a_time(self) -> None:
        assert self.world.under_way <= 1
        assert self.keeper.creating == bool(self.world.under_way)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        assert not self.pending or self.world.paused

    @invariant()
    def nobody_fails(self) -> None:
        for request in self.requests:
            if request.done() and not request.cancelled():
                assert request.exception() is None
        self.requests = self.pending

    @invariant()
    def one_recreation_for_a_death(self) -> None:
        assert self.keeper.counters.recreated <= self.deaths

    @invariant()
    def nothing_is_created_after_the_end(self) -> None:
        if self.stopped:
            assert self.world.attempts == self.attempts_at_stop

    @invariant()
    def only_the_shared_one_is_open(self) -> None:
        others = [session for session in self.world.created if session is not self.world.session]
        self.check_all_closed(others)

    def check_all_closed(self, sessions: list[aiohttp.ClientSession]) -> None:
        assert all(session.closed for session in sessions)

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            for request in self.pending:
                request.cancel()
            self.do(asyncio.sleep(0))
            for session in self.world.created:
                self.do(type(session).close(session))
            self.loop.close()

    def end(self) -> None:
        """Let all go well, then end."""
        while self.world.paused:
            self.world.paused[0].set_result("session")
            self.do(asyncio.sleep(0))
        self.nobody_waits_for_nothing()
        if not self.stopped and self.world.attempts:
            self.world.now += CAP
            asking = self.loop.create_task(self.keeper.ensure())
            self.do(asyncio.sleep(0))
            if self.world.paused:
                self.world.paused[0].set_result("session")
            self.do(asyncio.sleep(0))
            assert asking.result() is self.world.session
            assert self.world.usable
        self.do(self._end_lifespan())
        self.check_all_closed(self.world.created)


def test_any_interleaving() -> None:
    run_state_machine_as_test(
        KeeperMachine, settings=settings(max_examples=100, stateful_step_count=25)
    )


@pytest.mark.parametrize("waiting", [1, 5])
async def test_cancelling_the_holder_of_the_lock_lets_the_next_one_create(waiting: int) -> None:
    world = World()
    keeper = SessionKeeper(world, logging.getLogger("test"))
    world.session = world.make()
    keeper.start_up(world.session)
    await world.session.close()
    requests = [asyncio.create_task(keeper.ensure()) for _ in range(1 + waiting)]
    for _ in range(TURNS):
        await asyncio.sleep(0)
    requests[0].cancel()
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert world.attempts == 2
    world.paused[0].set_result("session")
    answers = await asyncio.wait_for(asyncio.gather(*requests[1:]), 5)
    assert answers == [world.session] * waiting
    assert world.usable
    await keeper.aclose()
