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
import os
import sys
import time
from itertools import repeat
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmarks.report import Comparison, Machine, Result, order, positive
from litellm_resilience import install, uninstall
from litellm_resilience.repairs import shared_session
from litellm_resilience.repairs.base import Changes, Context, PatchState, first_name
from litellm_resilience.repairs.lifecycle import INITIALISERS
from litellm_resilience.repairs.registry import ModuleSlot
from litellm_resilience.repairs.shared_session import ATTACH_FUNCTION, SESSION_KEY
from litellm_resilience.session.keeper import SessionKeeper

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

GOAL = 1.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--rounds", type=positive(int), default=300, help="rounds per side (default: 300)")
    add(
        "--calls", type=positive(int), default=1000, help="calls per round and side (default: 1000)"
    )
    add(
        "--tasks",
        type=positive(int),
        default=50,
        help="requests at once where they contend (default: 50)",
    )


def run(args: argparse.Namespace) -> Result:
    """Measure; imports LiteLLM's proxy into this process."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    machine = Machine.here()
    print("importing LiteLLM...", file=sys.stderr)
    bench = _Bench(args.rounds, args.calls, args.tasks)
    bench.check()
    with _quiet(bench.log):
        comparisons = asyncio.run(bench.measure())
    called = "with" if bench.awaited else "without"
    return Result(
        title="Attaching the shared session",
        conditions=f"Medians of {args.rounds} alternating rounds of {args.calls} calls, "
        f"{called} `await` as this LiteLLM's `route_request` does it (a tenth of the calls at "
        f"INFO); `route_request` and dead sessions: {bench.slow_rounds} rounds; contended: per "
        f"request of {args.tasks} tasks at once.",
        machine=machine,
        comparisons=comparisons,
        problems=bench.problems,
    )


class _Bench:
    def __init__(self, rounds: int, calls: int, tasks: int) -> None:
        self.server: Any = importlib.import_module("litellm.proxy.proxy_server")
        self.routing: Any = importlib.import_module("litellm.proxy.route_llm_request")
        self.log: logging.Logger = importlib.import_module("litellm._logging").verbose_proxy_logger
        self.rounds = rounds
        self.slow_rounds = max(1, rounds // 4)
        self.calls = calls
        self.tasks = tasks
        self.problems: list[str] = []
        self.native = getattr(self.routing, ATTACH_FUNCTION, None)
        self.awaited = inspect.iscoroutinefunction(self.native)

    def check(self) -> None:
        """Make sure that there is something to be compared."""
        if self.native is None:
            raise SystemExit("this LiteLLM has no shared session: nothing to compare")
        if self.log.isEnabledFor(logging.INFO):
            raise SystemExit("LiteLLM logs at INFO: unset LITELLM_LOG")

    async def measure(self) -> list[Comparison]:
        """Take all measurements and leave LiteLLM unpatched."""
        await self._new_session()
        try:
            self._switch("resilient")
            functions = {"plain": self.native, "resilient": getattr(self.routing, ATTACH_FUNCTION)}
            comparisons = [
                await self._attach(functions, logging.WARNING, "attach"),
                await self._attach(functions, logging.INFO, "attach, logging at INFO"),
            ]
            self.log.setLevel(logging.WARNING)
            comparisons.insert(1, await self._path())
            comparisons += [await self._route(), await self._contended()]
            return [*comparisons, await self._contended_dead()]
        finally:
            uninstall()
            await self._drop_session()

    def _switch(self, side: str) -> None:
        if side == "plain":
            uninstall()
        elif install()["shared-session"].state is not PatchState.APPLIED:
            raise SystemExit("the patch shared-session is not applied: see --doctor")

    async def _attach(self, functions: dict[str, Any], level: int, name: str) -> Comparison:
        comparison = Comparison(name, "ns", goal=GOAL if level > logging.INFO else None)
        self.log.setLevel(level)
        session = self.server.shared_aiohttp_session
        calls = self.calls if level > logging.INFO else max(1, self.calls // 10)
        for number in range(-1, self.rounds):  # the first round warms up
            for side in order(number):
                requests = _requests(calls)
                with _no_collection():
                    if self.awaited:
                        spent = await _time_awaited(functions[side], requests)
                    else:
                        spent = _time_called(functions[side], requests)
                if any(data.get(SESSION_KEY) is not session for data in requests):
                    self._problem(f"{name}: the {side} side did not attach the session")
                if number >= 0:
                    comparison.add(side, spent)
        return comparison

    async def _path(self) -> Comparison:
        """Both functions inside a `route_request` that does nothing else, patched like the real."""
        comparison = Comparison("attach inside an empty route_request", "ns", goal=GOAL)
        session = self.server.shared_aiohttp_session
        plain, resilient = self._empty_routing(), self._empty_routing()
        context = Context(
            proxy_server=self.server,
            route_llm_request=resilient,
            transport=self.server,
            http_handler=self.server,
            keeper=SessionKeeper(ModuleSlot(self.server), self.log),
            log=self.log,
            changes=Changes(),
        )
        shared_session.apply(context)
        shared_session.apply_await(context)
        functions = {"plain": plain.route_request, "resilient": resilient.route_request}
        for number in range(-1, self.rounds):
            for side in order(number):
                requests = _requests(self.calls)
                with _no_collection():
                    spent = await _time_awaited(functions[side], requests)
                if any(data.get(SESSION_KEY) is not session for data in requests):
                    self._problem(f"{comparison.name}: the {side} side attached nothing")
                if number >= 0:
                    comparison.add(side, spent)
        return comparison

    def _empty_routing(self) -> Any:
        module: Any = ModuleType("empty_routing")
        setattr(module, ATTACH_FUNCTION, self.native)

        async def route_awaiting(data: dict[str, Any]) -> None:
            await module.add_shared_session_to_data(data)

        async def route_calling(data: dict[str, Any]) -> None:
            module.add_shared_session_to_data(data)

        module.route_request = route_awaiting if self.awaited else route_calling
        return module

    async def _route(self) -> Comparison:
        comparison = Comparison("whole route_request", "ns")
        session = self.server.shared_aiohttp_session
        calls = max(1, self.calls // 4)
        for number in range(-1, self.slow_rounds):
            for side in order(number):
                self._switch(side)
                try:
                    spent, attached = await self._time_route(calls)
                except Exception as error:
                    self._problem(f"route_request: {type(error).__name__}: {error}")
                    return Comparison(comparison.name, comparison.unit)
                if attached is not session:
                    self._problem(f"route_request: the {side} side did not attach the session")
                if number >= 0:
                    comparison.add(side, spent)
        return comparison

    async def _time_route(self, calls: int) -> tuple[float, Any]:
        """Route requests without sending them: the coroutine that would is closed unstarted."""
        route = self.routing.route_request
        request = {"model": "m", "messages": [], "api_key": "none"}
        data: dict[str, Any] = {}
        await self._routed(route, dict(request))
        with _no_collection():
            started = time.perf_counter_ns()
            for _ in repeat(None, calls):
                data = dict(request)
                await self._routed(route, data)
            spent = (time.perf_counter_ns() - started) / calls
        return spent, data.get(SESSION_KEY)

    async def _routed(self, route: Callable[..., Any], data: dict[str, Any]) -> None:
        (await route(data, None, None, "acompletion")).close()

    async def _contended(self) -> Comparison:
        comparison = Comparison(f"contended: {self.tasks} requests at once", "ns")
        session = self.server.shared_aiohttp_session
        for number in range(-1, self.rounds):
            for side in order(number):
                self._switch(side)
                spent, sessions = await self._time_arrivals()
                if sessions != {session}:
                    self._problem(f"{comparison.name}: the {side} side did not attach the session")
                if number >= 0:
                    comparison.add(side, spent)
        return comparison

    async def _contended_dead(self) -> Comparison:
        comparison = Comparison(
            f"contended: {self.tasks} requests at once, session dead", "ns", absent="never"
        )
        for number in range(-1, self.slow_rounds):
            for side in order(number):
                self._switch(side)
                await self._drop_session()
                await self._new_session()
                # The keeper sees it open once, as it would in service.
                await self._arrive({})
                await self.server.shared_aiohttp_session.close()
                spent, sessions = await self._time_arrivals()
                if sessions == {None} and side == "plain":
                    continue  # LiteLLM up to 1.82.4 goes on without, for ever
                if len(sessions) != 1 or None in sessions:
                    self._problem(f"dead session: the {side} side got {len(sessions)} sessions")
                if number >= 0:
                    comparison.add(side, spent)
        return comparison

    async def _time_arrivals(self) -> tuple[float, set[Any]]:
        """Nanoseconds per request until all of them have arrived, and the sessions they got."""
        requests = _requests(self.tasks)
        with _no_collection():
            started = time.perf_counter_ns()
            await asyncio.gather(*(self._arrive(data) for data in requests))
            spent = (time.perf_counter_ns() - started) / self.tasks
        return spent, {data.get(SESSION_KEY) for data in requests}

    async def _arrive(self, data: dict[str, Any]) -> None:
        attached = getattr(self.routing, ATTACH_FUNCTION)(data)
        if attached is not None:
            await attached

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


def _requests(count: int) -> list[dict[str, Any]]:
    return [{"model": "m", "messages": []} for _ in range(count)]


async def _time_awaited(function: Any, requests: list[dict[str, Any]]) -> float:
    started = time.perf_counter_ns()
    for data in requests:
        await function(data)
    return (time.perf_counter_ns() - started) / len(requests)


def _time_called(function: Any, requests: list[dict[str, Any]]) -> float:
    started = time.perf_counter_ns()
    for data in requests:
        function(data)
    return (time.perf_counter_ns() - started) / len(requests)


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
