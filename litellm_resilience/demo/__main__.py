"""``python -m litellm_resilience.demo``: the resilient proxy under load, watched from outside."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_resilience.demo import close_session
from litellm_resilience.demo.close_session import CLOSE_SHARED_SESSION
from litellm_resilience.demo.console import Console, Progress
from litellm_resilience.demo.load import KeepAliveClient, LoadReport, RequestError, run_load
from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import (
    RESILIENT,
    Proxy,
    ProxyError,
    WorkerWatcher,
    chat,
    default_config,
)
from litellm_resilience.demo.summary import Recycling, Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROVIDER_DELAY = 0.05
THINK_TIME = 0.15
MODELS = ("demo-openai", "demo-vllm")
REQUEST_TIMEOUT = 10.0
STARTUP_SECONDS = 180.0


def _whole_number(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"[+-]?\d+", text) else minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} up")
        return value

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m litellm_resilience.demo",
        description="Start a fake provider and a resilient LiteLLM proxy whose workers restart "
        "often, send a steady load over keep-alive connections without retries, close the shared "
        "upstream session at one and two thirds of the time, and report what the clients saw. "
        "Needs Linux.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--seconds", type=_whole_number(1), default=60, help="length of the load")
    add("--num_workers", type=_whole_number(1), default=2, help="workers of the proxy")
    add(
        "--max_requests_before_restart",
        type=_whole_number(1),
        default=300,
        help="requests after which a worker restarts",
    )
    add(
        "--max_requests_jitter",
        type=_whole_number(0),
        default=100,
        help="upper limit of the random number added to that for each worker",
    )
    add("--clients", type=_whole_number(1), default=4, help="keep-alive connections")
    add("--json", action="store_true", help="print the summary as JSON; progress goes to stderr")
    add(
        "--proxy_command",
        default=shlex.join(RESILIENT),
        help="the proxy to start; with plain `litellm` set --max_requests_jitter to 0, which "
        "leaves that option out",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Args:
        argv: command-line arguments; None for those of the process.

    Returns:
        0, or 1 if the proxy never served, or 130 if interrupted before the load.

    Raises:
        SystemExit: with status 2 for bad arguments.
    """
    args = _parser().parse_args(argv)
    console = Console(sys.stderr if args.json else sys.stdout)
    options = ["--num_workers", str(args.num_workers)]
    options += ["--max_requests_before_restart", str(args.max_requests_before_restart)]
    if args.max_requests_jitter:
        options += ["--max_requests_jitter", str(args.max_requests_jitter)]
    try:
        with ProviderThread(delay=PROVIDER_DELAY) as provider:
            proxy = Proxy(
                shlex.split(args.proxy_command),
                default_config(provider.base_url),
                options,
                callbacks=[Path(close_session.__file__)],
            )
            with proxy:
                console.message(f"starting {shlex.join(proxy.command)}")
                _wait_until_up(proxy, args.num_workers, console)
                summary = asyncio.run(_Demo(args, provider, proxy, console).run())
    except (ProxyError, OSError) as error:
        console.end_progress()
        print(f"the proxy did not come up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.end_progress()
        return 128 + signal.SIGINT
    console.end_progress()
    if args.json:
        print(json.dumps(summary.as_json(), indent=2))
    else:
        print(f"\n{summary.as_table()}")
    return 0


def _wait_until_up(proxy: Proxy, workers: int, console: Console) -> None:
    started = time.monotonic()
    proxy.wait_ready(STARTUP_SECONDS)
    pids = proxy.wait_workers(workers, STARTUP_SECONDS)
    console.message(f"{len(pids)} workers serve after {time.monotonic() - started:.0f} s")


class _Demo:
    def __init__(
        self,
        args: argparse.Namespace,
        provider: ProviderThread,
        proxy: Proxy,
        console: Console,
    ) -> None:
        self._args = args
        self._provider = provider
        self._proxy = proxy
        self._console = console
        self._started = 0.0
        self._finished = 0
        self._failed = 0
        self._stop = asyncio.Event()

    async def run(self) -> Summary:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        with WorkerWatcher(self._proxy) as watcher:
            self._started = time.monotonic()
            helpers = [
                asyncio.create_task(self._show_progress(watcher)),
                asyncio.create_task(self._close_sessions()),
            ]
            try:
                report = await run_load(
                    self._proxy.host,
                    self._proxy.port,
                    clients=self._args.clients,
                    seconds=self._args.seconds,
                    think_time=THINK_TIME,
                    timeout=REQUEST_TIMEOUT,
                    body=lambda number: chat(MODELS[number % len(MODELS)]),
                    headers=self._proxy.headers,
                    on_result=lambda record: self._count(ok=record.ok),
                    stop=self._stop,
                )
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
        return self._summary(report, watcher)

    def _count(self, *, ok: bool) -> None:
        self._finished += 1
        self._failed += not ok

    async def _show_progress(self, watcher: WorkerWatcher) -> None:
        before = 0
        for second in range(1, self._args.seconds + 1):
            await asyncio.sleep(max(0.0, self._started + second - time.monotonic()))
            self._console.progress(
                Progress(
                    elapsed=time.monotonic() - self._started,
                    rate=self._finished - before,
                    failures=self._failed,
                    workers=watcher.serving,
                    upstream_connections=self._provider.stats().connections_open,
                )
            )
            before = self._finished

    async def _close_sessions(self) -> None:
        for third in (1, 2):
            due = self._started + self._args.seconds * third / 3
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            client = KeepAliveClient(
                self._proxy.host,
                self._proxy.port,
                headers=self._proxy.headers,
                timeout=REQUEST_TIMEOUT,
            )
            async with client:
                try:
                    reply = await client.request(
                        "POST", "/v1/chat/completions", chat(MODELS[0], user=CLOSE_SHARED_SESSION)
                    )
                    outcome = f"answered with {reply.status}"
                except RequestError as error:
                    outcome = f"failed: {error}"
            self._console.message(f"asked a worker to close its shared session: {outcome}")

    def _summary(self, report: LoadReport, watcher: WorkerWatcher) -> Summary:
        log = self._proxy.log_text()
        upstream = self._provider.stats()
        return Summary(
            seconds=report.duration,
            requests=report.requests,
            failures=report.failures,
            throughput=report.throughput,
            latency=report.percentiles((50, 95, 99)),
            silent_seconds=report.silent_seconds(),
            workers_recycled=_recyclings(watcher, self._started),
            sessions_closed=len(re.findall(r"demo: closed shared session", log)),
            sessions_recreated=_recreations(log),
            upstream_connections_opened=upstream.connections_opened,
            upstream_requests=upstream.requests,
            client_connections_opened=report.connections_opened,
            proxy_exit_status=self._proxy.exit_status(),
        )


def _recreations(log: str) -> int:
    begun = len(re.findall(r"SESSION REUSE: .*recreating\.\.\.", log))
    return begun - len(re.findall(r"SESSION REUSE: Failed to recreate", log))


def _recyclings(watcher: WorkerWatcher, started: float) -> list[Recycling]:
    newcomers = sorted(
        ((at, pid) for pid, at in watcher.joined.items() if at > started), reverse=True
    )
    result = []
    for pid, left in sorted(watcher.left.items(), key=lambda item: item[1]):
        at, successor = newcomers.pop() if newcomers else (None, None)
        result.append(
            Recycling(pid, left - started, successor, None if at is None else at - started)
        )
    return result


def _end(signum: int, _frame: object) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
