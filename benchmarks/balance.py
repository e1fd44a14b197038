"""How evenly four workers are loaded, plain `litellm` against `litellm-resilience`.

The proxies run side by side, and are sent requests in turns. A callback notes which worker gets
each request.

`share`: the busiest worker's requests, divided by the mean of all workers. 64 clients that keep
their connections send some requests each: opened in bursts, one by one, or through nginx, and, once
all workers were replaced, over the connections they have then.
`latency`: how long short requests take beside long streams. Clients wait for a random time after a
reply, because users do not go in step.
`rate`: requests per second, of ours with and without what makes the load even. Two starts of the
same proxy differ by a few percent, so there are several.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from benchmarks.commands import MODEL, checkout_environment, command
from benchmarks.fronts import executable, front
from benchmarks.report import Comparison, Machine, Pooled
from benchmarks.setups import ENTRIES, ROOT, SIDES, STARTUP_SECONDS, TIMEOUT
from benchmarks.throughput import cpu_seconds
from litellm_resilience.demo.load import KeepAliveClient, RequestError, run_load
from litellm_resilience.demo.proxy import chat, default_config
from tests.support.provider import ProviderProcess
from tests.support.proxy import ProxyProcess

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Mapping,
        Sequence,
    )

    from litellm_resilience.demo.load import LoadReport

    Measure = Callable[[Mapping[str, "Side"]], Awaitable[Sequence[Comparison | Pooled]]]

TALLY = ROOT / "tests" / "support" / "tally.py"
"""The callback that notes which worker gets a request."""
WORKERS = 4
CONNECTIONS = 64
BURST = 16
REQUESTS = 4
"""Per connection."""
STREAMS = 16
SHORT_CLIENTS = 16
"""Clients that send short requests beside the streams."""
SHORT_SECONDS = 8.0
CHUNKS_PER_SECOND = 50
STREAM_SECONDS = SHORT_SECONDS + 2.0
DELAY = 0.02
"""Seconds the provider takes for a short reply."""
THINK_SECONDS = 0.5
"""Seconds each of them waits after a reply on average: the streams keep two cores busy enough."""
ROUNDS = 3
LATENCY_ROUNDS = 32
RATE_STARTS = 4
RATE_ROUNDS = 8
"""Per start."""
RATE_SECONDS = 3.0
WITHOUT = "without"
"""Ours, but for what is measured here."""
PLACE = "/v1/chat/completions"
BODY = chat(MODEL)
SHARE = "busiest worker's requests, of the mean"


class Side:
    """A proxy with four workers.

    Args:
        proxy: started.
    """

    def __init__(self, proxy: ProxyProcess) -> None:
        self.proxy = proxy
        self.failures = Counter[str]()

    async def share(self, sending: Callable[[Side], Awaitable[None]]) -> float:
        """The busiest worker's requests during this, divided by the mean."""
        before = self._counts()
        await sending(self)
        counts = self._counts() - before
        return max(counts.values()) * WORKERS / counts.total()

    async def in_bursts(self) -> None:
        """Open connections in bursts, each as soon as the one before was answered."""
        async with self._clients() as clients:
            for first in range(0, CONNECTIONS, BURST):
                await self._send(clients[first : first + BURST])
            await self._send(clients, REQUESTS - 1)

    async def one_by_one(self) -> None:
        """Open each connection as soon as the one before was answered."""
        async with self._clients() as clients:
            for client in clients:
                await self._send([client])
            await self._send(clients, REQUESTS - 1)

    async def through_nginx(self) -> None:
        """Open all connections at once to nginx, which keeps its own."""
        with front("nginx", self.proxy.port) as port:
            async with self._clients(port) as clients:
                await self._send(clients, REQUESTS)

    async def share_after_a_roll(self) -> float:
        """The share once all workers were replaced while clients send."""
        async with self._clients() as clients:
            former = set(self.proxy.workers())
            os.kill(self.proxy.pid, signal.SIGHUP)
            while former & set(workers := self.proxy.workers()) or len(workers) < WORKERS:
                await self._send(clients)
            # Each connection of a former worker ends with the reply that announces it.
            await self._send(clients)
            return await self.share(lambda side: side._send(clients, REQUESTS))

    async def beside_streams(self) -> LoadReport:
        """Send short requests while streams run."""
        async with self._clients(number=STREAMS) as clients:
            streams = [client.stream(PLACE, {**BODY, "stream": True}) for client in clients]
            await asyncio.gather(*(anext(stream) for stream in streams))
            reading = [asyncio.create_task(_read(stream)) for stream in streams]
            report = await self.load(
                SHORT_CLIENTS,
                SHORT_SECONDS,
                functools.partial(random.expovariate, 1 / THINK_SECONDS),
            )
            await asyncio.gather(*reading)
        return report

    async def load(
        self, clients: int, seconds: float, think: float | Callable[[], float] = 0.0
    ) -> LoadReport:
        """Send short requests for some time."""
        report = await run_load(
            self.proxy.host,
            self.proxy.port,
            clients=clients,
            seconds=seconds,
            think_time=think,
            body=BODY,
            headers=self.proxy.headers,
        )
        self.failures.update(report.failures)
        return report

    @contextlib.asynccontextmanager
    async def _clients(
        self, port: int = 0, number: int = CONNECTIONS
    ) -> AsyncIterator[list[KeepAliveClient]]:
        """Clients that connect with their first request."""
        host, headers = self.proxy.host, self.proxy.headers
        async with contextlib.AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    KeepAliveClient(host, port or self.proxy.port, headers=headers, timeout=TIMEOUT)
                )
                for _ in range(number)
            ]

    async def _send(self, clients: Sequence[KeepAliveClient], times: int = 1) -> None:
        """Have each client send requests, one after the other."""

        async def send(client: KeepAliveClient) -> None:
            for _ in range(times):
                self.failures.update(await _attempt(client))

        await asyncio.gather(*map(send, clients))

    def _counts(self) -> Counter[str]:
        path = self.proxy.directory / "tally"
        return Counter(path.read_text().split() if path.exists() else ())


async def _attempt(client: KeepAliveClient) -> list[str]:
    """Send a request; return how it failed, if it did."""
    try:
        reply = await client.request("POST", PLACE, BODY)
    except RequestError as error:
        return [error.kind]
    return [reply.failure] if reply.failure else []


async def _read(stream: AsyncGenerator[bytes, None]) -> None:
    async for _ in stream:
        pass


def part(scenario: str) -> dict[str, Any]:
    """Start the proxies of a scenario, load them in turns and stop them, as often as it says."""
    names, measure, starts = SCENARIOS[scenario]
    (found, problems), *repeated = (_started(names, measure) for _ in range(starts))
    for again, failures in repeated:
        for former, latter in zip(found, again, strict=True):
            for column in SIDES:
                former.rounds[column].extend(latter.rounds[column])  # type: ignore[arg-type]
        problems += failures
    return {
        "results": [each.as_json() for each in found],
        "problems": problems,
        "processor": Machine.here().processor,
    }


def _started(
    names: Sequence[str], measure: Measure
) -> tuple[Sequence[Comparison | Pooled], list[str]]:
    with contextlib.ExitStack() as stack:
        provider = ProviderProcess(
            delay=DELAY,
            chunks=round(STREAM_SECONDS * CHUNKS_PER_SECOND),
            chunk_interval=1 / CHUNKS_PER_SECOND,
        )
        stack.enter_context(provider)
        sides = {name: Side(stack.enter_context(_proxy(name, provider))) for name in names}
        for side in sides.values():
            side.proxy.wait_ready(STARTUP_SECONDS)
            side.proxy.wait_workers(WORKERS, STARTUP_SECONDS)
        found = asyncio.run(_warmed(sides, measure))
    problems = [
        f"{name}: failed requests: {dict(side.failures)}"
        for name, side in sides.items()
        if side.failures
    ]
    return found, problems


def _proxy(name: str, provider: ProviderProcess) -> ProxyProcess:
    env = checkout_environment()
    if name == WITHOUT:
        env["LITELLM_RESILIENCE_DISABLE"] = "balanced-accept"
    return ProxyProcess(
        command("plain" if name == "plain" else "resilient", ENTRIES[-1]),
        default_config(provider.base_url, ["openai"]),
        ["--num_workers", str(WORKERS)],
        env=env,
        callbacks=[TALLY],
    )


async def _warmed(sides: Mapping[str, Side], measure: Measure) -> Sequence[Comparison | Pooled]:
    for side in sides.values():
        await side.one_by_one()
    found = await measure(sides)
    for each in found:
        if isinstance(each, Comparison):
            for name, values in each.rounds.items():
                print(each.name, name, *(f"{value:.2f}" for value in values), file=sys.stderr)
    return found


def _column(sides: Mapping[str, Side], side: Side) -> str:
    return SIDES[side is sides["resilient"]]


async def _in_turns(
    sides: Mapping[str, Side],
    rounds: int,
    name: str,
    unit: str,
    measure: Callable[[Side], Awaitable[float]],
) -> Comparison:
    """Measure the sides in turns; the first of them takes the place of plain `litellm`."""
    found = Comparison(name, unit)
    for number in range(rounds):
        pairs = list(zip(SIDES, sides.values(), strict=True))
        for column, side in pairs if number % 2 == 0 else reversed(pairs):
            found.rounds[column].append(await measure(side))
    return found


async def _shares(sides: Mapping[str, Side]) -> Sequence[Comparison | Pooled]:
    ways: dict[str, Callable[[Side], Awaitable[None]]]
    ways = {"in bursts of 16": Side.in_bursts, "one by one": Side.one_by_one}
    if executable("nginx") is not None:
        ways["through nginx"] = Side.through_nginx
    found = [
        await _in_turns(
            sides, ROUNDS, f"{SHARE}, {words}", "", functools.partial(Side.share, sending=way)
        )
        for words, way in ways.items()
    ]
    rolled = Comparison(f"{SHARE}, after a roll", "")
    for _ in range(ROUNDS):
        rolled.rounds["resilient"].append(await sides["resilient"].share_after_a_roll())
    return [*found, rolled]


async def _latency(sides: Mapping[str, Side]) -> Sequence[Comparison | Pooled]:
    words = f"p99 of short requests beside {STREAMS} streams"
    pooled = Pooled(f"{words}, all rounds together", 99)

    async def measure(side: Side) -> float:
        report = await side.beside_streams()
        pooled.rounds[_column(sides, side)].append(report)
        return 1000 * report.percentile(99)

    by_round = await _in_turns(sides, LATENCY_ROUNDS, f"{words}, by round", "ms", measure)
    return [by_round, pooled]


async def _rate(sides: Mapping[str, Side]) -> Sequence[Comparison | Pooled]:
    spent = Comparison("CPU time of the proxy per request, without and with", "ms")

    async def measure(side: Side) -> float:
        before = cpu_seconds(side.proxy)
        report = await side.load(CONNECTIONS, RATE_SECONDS)
        spent.rounds[_column(sides, side)].append(
            1000 * (cpu_seconds(side.proxy) - before) / report.successes
        )
        return report.throughput

    name = "requests per second, without and with"
    return [await _in_turns(sides, RATE_ROUNDS, name, "/s", measure), spent]


SCENARIOS: Mapping[str, tuple[Sequence[str], Measure, int]] = {
    "share": (SIDES, _shares, 1),
    "latency": (SIDES, _latency, 1),
    "rate": ((WITHOUT, "resilient"), _rate, RATE_STARTS),
}
"""The sides, what is measured, and in how many starts."""
