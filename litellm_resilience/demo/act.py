"""One proxy under load, and what is done to it meanwhile: a line for each event."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litellm_resilience.demo import batch_sink, close_session
from litellm_resilience.demo.close_session import CLOSE_SHARED_SESSION
from litellm_resilience.demo.console import Progress
from litellm_resilience.demo.load import KeepAliveClient, RequestError, run_load
from litellm_resilience.demo.proxy import Proxy, WorkerWatcher, chat, default_config
from litellm_resilience.demo.summary import Summary

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Sequence

    from litellm_resilience.demo.console import Console
    from litellm_resilience.demo.load import LoadReport, RequestRecord
    from litellm_resilience.demo.provider import ProviderThread

THINK_TIME = 0.15
MODELS = ("demo-openai", "demo-vllm")
REQUEST_TIMEOUT = 10.0
STARTUP_SECONDS = 180.0
LOOK_SECONDS = 0.1
EVENTS_END = 15.0
"""Everything is done within so many seconds of the load."""
KILL_SECONDS = 1.0
"""So long after the SIGKILL a connection that it has broken may be noticed."""
STOP_SECONDS = 30.0
RECYCLED = " replaced by "
EVENT = re.compile(
    r"Worker \d+ \(pid \d+\) (?:draining, replaced by|died: |could not start).*"
    r"|Trying one new worker .*|The new worker .*|The reload is taken back.*"
)
"""What our log says of workers and is shown."""


class ShownProxy(Proxy):
    """A proxy with both callbacks of the demo.

    Args:
        argv: the command without options.
        options: of the command.
        provider: what it asks, and where its records go.
    """

    def __init__(
        self, argv: Sequence[str], options: Sequence[str], provider: ProviderThread
    ) -> None:
        callbacks = [Path(close_session.__file__), Path(batch_sink.__file__)]
        super().__init__(argv, default_config(provider.base_url), options, callbacks=callbacks)
        self._records_url = f"{provider.base_url}/records"

    def process_arguments(self) -> dict[str, Any]:
        """Further arguments of `subprocess.Popen`."""
        arguments = super().process_arguments()
        return {"env": {**arguments["env"], batch_sink.URL: self._records_url}}


class Act:
    """A load on a proxy, with a session closed, a worker killed and a roll on the way.

    Args:
        args: of the command line.
        provider: behind the proxy.
        proxy: started, and stopped here.
        console: where the lines go.
        ours: whether the proxy is one of this package, which logs what its workers do.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        provider: ProviderThread,
        proxy: Proxy,
        console: Console,
        *,
        ours: bool,
    ) -> None:
        self._args = args
        self._provider = provider
        self._proxy = proxy
        self._console = console
        self._started = 0.0
        self._results: list[RequestRecord] = []
        self._stop = asyncio.Event()
        self._killed: tuple[int, float] = (0, 0.0)
        self._ours = ours
        self._recycled = 0

    async def run(self) -> Summary:
        """Send the load, cause the events, stop the proxy, and count."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        with WorkerWatcher(self._proxy, LOOK_SECONDS) as watcher:
            self._started = time.monotonic()
            helpers = [
                asyncio.create_task(self._narrate(watcher)),
                asyncio.create_task(self._show_progress(watcher)),
                asyncio.create_task(self._cause(watcher)),
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
                    on_result=self._results.append,
                    stop=self._stop,
                )
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
        exit_status = self._proxy.exit_status()
        self._say(
            "the load ends: SIGTERM to the proxy, which sends the records that it still holds"
        )
        log = await asyncio.to_thread(self._end)
        return self._summary(report, log, exit_status)

    def _end(self) -> str:
        """Stop the proxy, and return its log."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._proxy.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._proxy.exit_status() is None and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        log = self._proxy.log_text()
        self._proxy.stop()
        return log

    def _say(self, text: str) -> None:
        self._console.message(f"{time.monotonic() - self._started:5.1f} s  {text}")

    async def _narrate(self, watcher: WorkerWatcher) -> None:
        """Say which workers come and go: from our log, or else from what is seen of them."""
        seen = 0
        known = set(watcher.serving)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            events = EVENT.findall(self._proxy.log_text())
            for event in events[seen:]:
                self._recycled += RECYCLED in event
                self._say(event)
            seen = len(events)
            if not self._ours:
                known = self._compare(known, set(watcher.serving))

    def _compare(self, known: set[int], serving: set[int]) -> set[int]:
        of = f"{len(serving)} of {self._args.num_workers} serve"
        for pid in sorted(serving - known):
            self._say(f"Worker (pid {pid}) serves: {of}")
        for pid in sorted(known - serving):
            self._recycled += pid != self._killed[0]
            self._say(f"Worker (pid {pid}) is gone: {of}")
        return serving

    async def _show_progress(self, watcher: WorkerWatcher) -> None:
        before = 0
        for second in range(1, self._args.seconds + 1):
            await asyncio.sleep(max(0.0, self._started + second - time.monotonic()))
            finished = len(self._results)
            self._console.progress(
                Progress(
                    elapsed=time.monotonic() - self._started,
                    rate=finished - before,
                    failures=sum(not result.ok for result in self._results),
                    workers=len(watcher.serving),
                )
            )
            before = finished

    async def _cause(self, watcher: WorkerWatcher) -> None:
        """Do what an operator, a bug or the kernel would do, one after the other."""
        causes: list[tuple[float, Callable[[WorkerWatcher], Awaitable[None]]]] = [
            (0.25, self._close_session),
            (0.5, self._kill),
            (0.75, self._roll),
        ]
        span = min(float(self._args.seconds), EVENTS_END)
        for share, cause in causes:
            await asyncio.sleep(max(0.0, self._started + span * share - time.monotonic()))
            await cause(watcher)

    async def _close_session(self, _: WorkerWatcher) -> None:
        client = KeepAliveClient(
            self._proxy.host,
            self._proxy.port,
            headers=self._proxy.headers,
            timeout=REQUEST_TIMEOUT,
        )
        self._say("the shared session of a worker is closed")
        async with client:
            with contextlib.suppress(RequestError):
                body = chat(MODELS[0], user=CLOSE_SHARED_SESSION)
                await client.request("POST", "/v1/chat/completions", body)

    async def _kill(self, watcher: WorkerWatcher) -> None:
        if watcher.serving:
            pid = watcher.serving[0]
            self._say(f"SIGKILL to worker {pid}")
            self._killed = pid, time.monotonic() - self._started
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _roll(self, _: WorkerWatcher) -> None:
        self._say("SIGHUP: all workers are replaced, as after a change of config.yaml")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._proxy.pid, signal.SIGHUP)

    def _summary(self, report: LoadReport, log: str, exit_status: int | None) -> Summary:
        upstream = self._provider.stats()
        failed = [record for record in report.records if record.failure is not None]
        broken = [record for record in failed if self._by_kill(record)][: self._args.clients]
        failures = Counter(str(record.failure) for record in failed if record not in broken)
        killed, other = self._missing()
        records = self._provider.provider.records
        return Summary(
            seconds=report.duration,
            requests=report.requests,
            failures=dict(failures),
            throughput=report.throughput,
            latency=report.percentiles((50, 99)),
            silent_seconds=report.silent_seconds(),
            recycled=self._recycled,
            killed_requests=len(broken),
            killed_records=killed,
            sessions_closed=len(re.findall(r"demo: closed shared session", log)),
            sessions_recreated=_recreations(log),
            records=len(records),
            records_missing=other,
            records_twice=sum(count > 1 for count in records.values()),
            upstream_connections=upstream.connections_opened,
            exit_status=exit_status,
        )

    def _by_kill(self, record: RequestRecord) -> bool:
        """Whether the request was on a connection that the SIGKILL has broken."""
        pid, at = self._killed
        cut = record.failure in {"reset", "closed_before_reply", "truncated"}
        return bool(pid) and cut and at <= record.timestamp <= at + KILL_SECONDS

    def _missing(self) -> tuple[int, int]:
        """How many replies have no record: of the killed worker, and of others."""
        provider = self._provider.provider
        asked = [text for name, text in provider.asked.items() if name not in provider.records]
        killed = asked.count(f"{batch_sink.GREETING}{self._killed[0]}")
        return killed, len(asked) - killed


def _recreations(log: str) -> int:
    begun = len(re.findall(r"SESSION REUSE: .*recreating\.\.\.", log))
    return begun - len(re.findall(r"SESSION REUSE: Failed to recreate", log))
