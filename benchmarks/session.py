"""What clients and the provider see of the shared session, plain `litellm` against ours.

`storm`: keep-alive clients and a slow provider, on a LiteLLM whose clients may close a session that
is not theirs. `hang_ups`: clients that hang up in the middle of a stream, with a limited number of
connections to the provider, and one request after them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from benchmarks.commands import command, started
from benchmarks.setups import SIDES, STARTUP_SECONDS
from litellm_resilience.demo.load import KeepAliveClient, RequestError, run_load
from litellm_resilience.demo.proxy import POLL_INTERVAL, chat

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.support.provider import ProviderProcess
    from tests.support.proxy import ProxyProcess

MODEL = "demo-vllm"
PROVIDER = "hosted_vllm"
PATH = "/v1/chat/completions"
ATTACHED = "SESSION REUSE: Attached"
CLIENTS = 8
SECONDS = 8.0
DELAY = 0.3
HANG_UPS = 200
AT_A_TIME = 20
CONNECTIONS = 50
STREAM_SECONDS = 20
PATIENCE = 10.0
"""Seconds a client waits for its first event, or for the reply."""
RELEASE_SECONDS = 3.0
"""So long connections may be given back after the last client has gone."""


def storm(argv: Sequence[str]) -> dict[str, int]:
    """Load a proxy whose provider is slow.

    Returns:
        Requests sent; those that failed; those that went over the shared session; connections
        opened to the provider.
    """
    with _serving(argv, delay=DELAY) as (proxy, provider):
        before = provider.stats().connections_opened
        report = asyncio.run(
            run_load(
                proxy.host,
                proxy.port,
                clients=CLIENTS,
                seconds=SECONDS,
                max_requests=5000,
                body=chat(MODEL),
                headers=proxy.headers,
            )
        )
        return {
            "requests": report.requests,
            "failed": report.requests - report.successes,
            "attached": proxy.log_text().count(ATTACHED),
            "connections": provider.stats().connections_opened - before,
        }


def hang_ups(argv: Sequence[str]) -> dict[str, int]:
    """Have clients leave streams of a proxy, then ask it once more.

    Returns:
        Clients that wanted a stream and meant to leave it; those that got none in time; connections
        to the provider whose streams are still read afterwards; whether the next request was
        answered in time.
    """
    settings = {"chunks": STREAM_SECONDS * 10, "chunk_interval": 0.1}
    limit = {"AIOHTTP_CONNECTOR_LIMIT_PER_HOST": str(CONNECTIONS)}
    with _serving(argv, limit, **settings) as (proxy, provider):
        failed = asyncio.run(_leave_streams(proxy))
        held = _held(provider)
        answered = asyncio.run(_answered(proxy))
        return {"clients": HANG_UPS, "failed": failed, "held": held, "answered": answered}


@contextlib.contextmanager
def _serving(
    argv: Sequence[str], env: Mapping[str, str] | None = None, **settings: float
) -> Iterator[tuple[ProxyProcess, ProviderProcess]]:
    env = {"LITELLM_LOG": "INFO", **(env or {})}
    with started(argv, ["--num_workers", "1"], providers=[PROVIDER], env=env, **settings) as both:
        both[0].wait_ready(STARTUP_SECONDS)
        yield both


async def _leave_streams(proxy: ProxyProcess) -> int:
    async def leave() -> bool:
        async with _client(proxy) as client:
            events = client.stream(PATH, chat(MODEL, stream=True))
            try:
                async with contextlib.aclosing(events):
                    for _ in range(3):
                        await anext(events)
                    client.hang_up()
            except (RequestError, StopAsyncIteration):
                return False
            return True

    left: list[bool] = []
    for _ in range(HANG_UPS // AT_A_TIME):
        left += await asyncio.gather(*(leave() for _ in range(AT_A_TIME)))
    return left.count(False)


async def _answered(proxy: ProxyProcess) -> bool:
    async with _client(proxy) as client:
        try:
            return (await client.request("POST", PATH, chat(MODEL))).failure is None
        except RequestError:
            return False


def _client(proxy: ProxyProcess) -> KeepAliveClient:
    return KeepAliveClient(proxy.host, proxy.port, headers=proxy.headers, timeout=PATIENCE)


def _held(provider: ProviderProcess) -> int:
    """Streams that go on although nobody listens, after the time to end them."""
    deadline = time.monotonic() + RELEASE_SECONDS
    while (held := provider.stats().streams_open) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
    return held


SCENARIOS = {"storm": storm, "hang_ups": hang_ups}


def part(scenario: str) -> dict[str, dict[str, int]]:
    """Measure one side after the other; see `SCENARIOS`."""
    return {side: SCENARIOS[scenario](command(side)) for side in SIDES}
