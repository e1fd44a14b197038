"""What clients and the provider see of the shared session, plain `litellm` against ours.

`storm`: keep-alive clients and a slow provider, on a LiteLLM whose clients may close a session that
is not theirs. `hang_ups`: clients that hang up in the middle of a stream, with a limited number of
connections to the provider, and one request after them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from benchmarks.commands import STARTUP_SECONDS, add_commands, checkout_environment
from benchmarks.report import SIDES, Machine
from litellm_resilience.demo.load import KeepAliveClient, RequestError, run_load
from litellm_resilience.demo.proxy import POLL_INTERVAL, chat, default_config
from tests.support.provider import ProviderProcess
from tests.support.proxy import ProxyProcess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

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


@dataclass(frozen=True)
class Storm:
    """Requests under load.

    Attributes:
        requests: sent.
        failed: without a complete reply.
        attached: that went over the shared session.
        connections: opened to the provider.
    """

    requests: int
    failed: int
    attached: int
    connections: int


@dataclass(frozen=True)
class HangUps:
    """Clients that hang up.

    Attributes:
        clients: that wanted a stream and meant to leave it.
        failed: that got no stream in time.
        held: connections to the provider whose streams are still read afterwards.
        answered: whether the next request was answered in time.
    """

    clients: int
    failed: int
    held: int
    answered: bool


def storm(command: Sequence[str]) -> Storm:
    """Load a proxy whose provider is slow."""
    with ProviderProcess(delay=DELAY) as provider, _proxy(command, provider, {}) as proxy:
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
        return Storm(
            requests=report.requests,
            failed=report.requests - report.successes,
            attached=proxy.log_text().count(ATTACHED),
            connections=provider.stats().connections_opened - before,
        )


def hang_ups(command: Sequence[str]) -> HangUps:
    """Have clients leave streams of a proxy, then ask it once more."""
    limit = {"AIOHTTP_CONNECTOR_LIMIT_PER_HOST": str(CONNECTIONS)}
    settings = {"chunks": STREAM_SECONDS * 10, "chunk_interval": 0.1}
    with ProviderProcess(**settings) as provider, _proxy(command, provider, limit) as proxy:
        failed = asyncio.run(_leave_streams(proxy))
        held = _held(provider)
        return HangUps(HANG_UPS, failed, held, asyncio.run(_answered(proxy)))


@contextlib.contextmanager
def _proxy(
    command: Sequence[str], provider: ProviderProcess, env: dict[str, str]
) -> Iterator[ProxyProcess]:
    """A proxy that serves."""
    with ProxyProcess(
        command,
        default_config(provider.base_url, [PROVIDER]),
        ["--num_workers", "1"],
        env={**checkout_environment(), "LITELLM_LOG": "INFO", **env},
    ) as proxy:
        proxy.wait_ready(STARTUP_SECONDS)
        yield proxy


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


SCENARIOS: dict[str, Callable[[Sequence[str]], Storm | HangUps]] = {
    "storm": storm,
    "hang_ups": hang_ups,
}


@dataclass
class Outcome:
    """What became of each scenario on each side.

    Attributes:
        machine: measured on.
        found: figures by scenario and side.
        problems: what was not as intended.
    """

    machine: Machine
    found: dict[str, dict[str, dict[str, int | bool]]]
    problems: Sequence[str] = ()

    def as_json(self) -> str:
        """The outcome as JSON text."""
        return json.dumps(asdict(self), indent=2)

    def as_markdown(self) -> str:
        """The outcome as a Markdown section."""
        lines = ["| Scenario | Side | Figures |", "|---|---|---|"]
        for scenario, sides in self.found.items():
            for side, figures in sides.items():
                text = ", ".join(f"{name} {value}" for name, value in figures.items())
                lines.append(f"| {scenario} | {side} | {text} |")
        return "\n".join(["### Shared session", "", *lines, "", f"Machine: {self.machine}."])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    add_commands(parser)


def run(args: argparse.Namespace) -> Outcome:
    """Measure one side after the other."""
    outcome = Outcome(Machine.here(), {name: {} for name in args.scenarios})
    commands = {"plain": args.plain_command, "resilient": args.resilient_command}
    for name in args.scenarios:
        for side in SIDES:
            print(f"{name}, {side} ...", file=sys.stderr, flush=True)
            found = SCENARIOS[name](shlex.split(commands[side]))
            outcome.found[name][side] = asdict(found)
    return outcome
