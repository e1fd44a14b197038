"""Cost of attaching the shared session to a request, LiteLLM's own function against ours.

Both functions run in this process, on an open aiohttp session made by LiteLLM, in rounds that
alternate; each is called the way this LiteLLM's `route_request` calls it (up to 1.82.4 without
`await`). Further rows: both inside a `route_request` that does nothing else, so that waiting for
a session before it (up to 1.82.4) counts; with INFO logging into a handler that drops everything,
where the first versions with a shared session log nothing and ours does; the whole of
`route_request` up to the provider call, unpatched and patched; and contended: many requests at
once, each a task, that find the session open, or find it dead and all need a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import inspect
import logging
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmarks.report import Comparison, order
from litellm_resilience import install, uninstall
from litellm_resilience.records.flush import Flush
from litellm_resilience.repairs import shared_session
from litellm_resilience.repairs.base import Changes, Context, PatchState, first_name
from litellm_resilience.repairs.lifecycle import INITIALISERS
from litellm_resilience.repairs.registry import ModuleSlot
from litellm_resilience.repairs.shared_session import ATTACH_FUNCTION, SESSION_KEY
from litellm_resilience.session.keeper import SessionKeeper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Timed = Callable[[str], Awaitable[tuple[float, set[Any]]]]

ROUNDS = 100
SLOW_ROUNDS = 25
CALLS = 1000
"""Per round and side."""
TASKS = 50
"""Requests at once where they contend."""
DEAD = "session dead"
REQUEST = {"model": "m", "messages": []}


def part() -> dict[str, Any]:
    """Measure; imports LiteLLM's proxy into this process."""
    bench = _Bench()
    with _quiet(bench.log):
        comparisons = asyncio.run(bench.measure())
    return {"results": [each.as_json() for each in comparisons], "problems": bench.problems}


class _Bench:
    def __init__(self) -> None:
        self.server: Any = importlib.import_module("litellm.proxy.proxy_server")
        self.routing: Any = importlib.import_module("litellm.proxy.route_llm_request")
        self.log: logging.Logger = importlib.import_module("litellm._logging").verbose_proxy_logger
        self.problems: list[str] = []
        self.native = getattr(self.routing, ATTACH_FUNCTION, None)
        self.awaited = inspect.iscoroutinefunction(self.native)
        if self.native is None:
            raise SystemExit("this LiteLLM has no shared session: nothing to compare")
        if self.log.isEnabledFor(logging.INFO):
            raise SystemExit("LiteLLM logs at INFO: unset LITELLM_LOG")

    async def measure(self) -> list[Comparison]:
        """Take all measurements and leave LiteLLM unpatched."""
        await self._new_session()
        try:
            self._switch("resilient")
            return [await self._compare(*row) for row in self._rows()]
        finally:
            uninstall()
            await self._drop_session()

    def _rows(self) -> tuple[tuple[Comparison, int, Timed], ...]:
        """What is compared, in how many rounds, and how; the first three are called patched."""
        functions = {"plain": self.native, "resilient": getattr(self.routing, ATTACH_FUNCTION)}
        paths = {"plain": self._empty_routing(), "resilient": self._empty_routing()}
        self._patch(paths["resilient"])
        many = f"contended: {TASKS} requests at once"
        return (
            (Comparison("attach", "ns"), ROUNDS, lambda side: self._calls(functions[side], CALLS)),
            (
                Comparison("attach inside an empty route_request", "ns"),
                ROUNDS,
                lambda side: _timed(paths[side].route_request, _requests(CALLS)),
            ),
            (
                Comparison("attach, logging at INFO", "ns"),
                ROUNDS,
                lambda side: self._logging_calls(functions[side]),
            ),
            (Comparison("whole route_request", "ns"), SLOW_ROUNDS, self._route),
            (Comparison(many, "ns"), ROUNDS, self._contend),
            (Comparison(f"{many}, {DEAD}", "ns"), SLOW_ROUNDS, self._contend_for_new),
        )

    async def _compare(self, comparison: Comparison, rounds: int, timed: Timed) -> Comparison:
        """Have both sides timed in turns.

        Args:
            comparison: what is measured.
            rounds: how many there are beside the first, which warms up.
            timed: returns the nanoseconds per request of a side, and the sessions that were
                attached.
        """
        for number in range(-1, rounds):
            for side in order(number):
                try:
                    spent, sessions = await timed(side)
                except Exception as error:
                    self._problem(f"{comparison.name}: {type(error).__name__}: {error}")
                    return Comparison(comparison.name, comparison.unit)
                if sessions == {None} and side == "plain" and comparison.name.endswith(DEAD):
                    continue  # LiteLLM up to 1.82.4 goes on without, for ever
                if None in sessions or sessions != {self.server.shared_aiohttp_session}:
                    self._problem(f"{comparison.name}: the {side} side did not attach the session")
                if number >= 0:
                    comparison.rounds[side].append(spent)
        return comparison

    async def _calls(self, function: Any, count: int) -> tuple[float, set[Any]]:
        return await _timed(function, _requests(count), awaited=self.awaited)

    async def _logging_calls(self, function: Any) -> tuple[float, set[Any]]:
        self.log.setLevel(logging.INFO)
        try:
            return await self._calls(function, CALLS // 10)
        finally:
            self.log.setLevel(logging.WARNING)

    async def _route(self, side: str) -> tuple[float, set[Any]]:
        """Route requests without sending them: the coroutine that would is closed unstarted."""
        self._switch(side)
        route = self.routing.route_request

        async def routed(data: dict[str, Any]) -> None:
            (await route(data, None, None, "acompletion")).close()

        await routed({**REQUEST, "api_key": "none"})
        requests = _requests(CALLS // 4, api_key="none")
        return await _timed(routed, requests)

    async def _contend(self, side: str) -> tuple[float, set[Any]]:
        self._switch(side)
        return await self._arrivals()

    async def _contend_for_new(self, side: str) -> tuple[float, set[Any]]:
        self._switch(side)
        await self._drop_session()
        await self._new_session()
        # The keeper sees it open once, as it would in service.
        await self._arrive({})
        await self.server.shared_aiohttp_session.close()
        return await self._arrivals()

    async def _arrivals(self) -> tuple[float, set[Any]]:
        """The time until all of many requests at once have arrived."""
        requests = _requests(TASKS)
        with _no_collection():
            started = time.perf_counter_ns()
            await asyncio.gather(*(self._arrive(data) for data in requests))
            spent = time.perf_counter_ns() - started
        return _figures(spent, requests)

    async def _arrive(self, data: dict[str, Any]) -> None:
        attached = getattr(self.routing, ATTACH_FUNCTION)(data)
        if attached is not None:
            await attached

    def _switch(self, side: str) -> None:
        if side == "plain":
            uninstall()
        elif install()["shared-session"].state is not PatchState.APPLIED:
            raise SystemExit("the patch shared-session is not applied: see --doctor")

    def _empty_routing(self) -> Any:
        """A module with a `route_request` that does nothing but attach."""
        module: Any = ModuleType("empty_routing")
        setattr(module, ATTACH_FUNCTION, self.native)

        async def route_awaiting(data: dict[str, Any]) -> None:
            await module.add_shared_session_to_data(data)

        async def route_calling(data: dict[str, Any]) -> None:
            module.add_shared_session_to_data(data)

        module.route_request = route_awaiting if self.awaited else route_calling
        return module

    def _patch(self, routing: Any) -> None:
        """Patch such a module like the real one."""
        context = Context(
            proxy_server=self.server,
            route_llm_request=routing,
            transport=self.server,
            http_handler=self.server,
            keeper=SessionKeeper(ModuleSlot(self.server), self.log),
            flush=Flush(self.log),
            log=self.log,
            changes=Changes(),
        )
        shared_session.apply(context)
        shared_session.apply_await(context)

    async def _new_session(self) -> None:
        initialise = getattr(self.server, first_name(self.server, *INITIALISERS))
        self.server.shared_aiohttp_session = await initialise()

    async def _drop_session(self) -> None:
        session = self.server.shared_aiohttp_session
        self.server.shared_aiohttp_session = None
        if session is not None and not session.closed:
            await type(session).close(session)

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)


def _requests(count: int, **more: str) -> list[dict[str, Any]]:
    return [{**REQUEST, **more} for _ in range(count)]


async def _timed(
    function: Any, requests: list[dict[str, Any]], *, awaited: bool = True
) -> tuple[float, set[Any]]:
    with _no_collection():
        started = time.perf_counter_ns()
        if awaited:
            for data in requests:
                await function(data)
        else:
            for data in requests:
                function(data)
        spent = time.perf_counter_ns() - started
    return _figures(spent, requests)


def _figures(spent: int, requests: list[dict[str, Any]]) -> tuple[float, set[Any]]:
    """Nanoseconds per request, and the sessions that were attached."""
    return spent / len(requests), {data.get(SESSION_KEY) for data in requests}


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _quiet(log: logging.Logger) -> Iterator[None]:
    """Send what is logged nowhere, at whatever level the benchmark sets."""
    handlers, propagate, level = log.handlers, log.propagate, log.level
    log.handlers, log.propagate = [logging.NullHandler()], False
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
