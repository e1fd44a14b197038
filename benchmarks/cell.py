"""One proxy, started once and loaded: how long it takes to start, and what clients see then.

The clients keep their connections, do not retry, and count an idle connection that is closed
without announcement as a failed request, as most HTTP clients would see it. Between them, a fake
provider on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import openai_load
from benchmarks.commands import ENTRIES, MODEL, STARTUP_SECONDS, checkout_environment
from benchmarks.fronts import Front
from benchmarks.matrix import PICTURED
from litellm_resilience.demo.load import LoadReport, run_load
from litellm_resilience.demo.proxy import ProxyError, WorkerWatcher, chat, default_config
from tests.support.provider import ProviderProcess
from tests.support.proxy import ProxyProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.matrix import Cell

READY = re.compile(r"Worker \d+ \(pid \d+\) ready after ([\d.]+) s")
TIMEOUT = 30.0
"""Seconds a client waits for a reply, or for the next event of a stream."""
SETTLE_SECONDS = 60.0
"""So long the next load waits at most for all workers to serve again."""
GATEWAY_ERRORS = (502, 503, 504)
CHUNKS_PER_SECOND = 10
PICTURED_TIMES = 3
"""The pictured load lasts so many times as long as the others."""


@dataclass(frozen=True)
class Load:
    """What is sent, and when workers are recycled.

    Attributes:
        seconds: length of each load.
        limit: requests after which a worker is recycled.
        jitter: upper limit of what this package adds to that for each worker.
        clients: requests for JSON at a time.
        stream_clients: streams at a time.
        delay: seconds the provider takes.
        stream_seconds: seconds a stream takes.
        requests: requests per load at most; None for any number.
        plain_entry: how plain LiteLLM is started, see `commands.ENTRIES`.
    """

    seconds: float = 15.0
    limit: int = 150
    jitter: int = 50
    clients: int = 8
    stream_clients: int = 24
    delay: float = 0.02
    stream_seconds: float = 1.0
    requests: int | None = None
    plain_entry: str = ENTRIES[0]

    def options(self, side: str) -> list[str]:
        """The command-line options that have workers recycled."""
        limit = ["--max_requests_before_restart", str(self.limit)]
        return [*limit, "--max_requests_jitter", str(self.jitter)] if side == "resilient" else limit

    def provider(self) -> ProviderProcess:
        """What stands in for the provider."""
        return ProviderProcess(
            delay=self.delay,
            chunks=max(1, round(self.stream_seconds * CHUNKS_PER_SECOND)),
            chunk_interval=1 / CHUNKS_PER_SECOND,
        )

    def of_kind(self, kind: str) -> Load:
        """The same for one of the kinds of load."""
        if kind == "stream":
            return replace(self, clients=self.stream_clients)
        return replace(self, seconds=self.seconds * PICTURED_TIMES) if kind == PICTURED else self


@dataclass
class Seen:
    """What clients saw of one load, and what was seen of the workers meanwhile.

    Attributes:
        seconds: during which requests were started.
        requests: sent.
        failed: without a complete reply of status 2xx or 3xx.
        failures: the same by kind.
        gateway_errors: replies with one of `GATEWAY_ERRORS`, by status.
        silent_seconds: whole seconds without a reply.
        throughput: successful requests per second.
        p50, p99, longest: latency of successful requests in seconds; None without any.
        replies: successful requests in each second.
        recycles: seconds after which workers had left.
        boots: seconds that replacements took, as our log says, else from their predecessors' end.
        serving: workers at the start.
        exit_status: of a proxy that ended.
    """

    seconds: float
    requests: int
    failed: int
    failures: dict[str, int]
    gateway_errors: dict[str, int]
    silent_seconds: int
    throughput: float
    p50: float | None
    p99: float | None
    longest: float | None
    replies: list[int]
    recycles: list[float]
    boots: list[float]
    serving: int
    exit_status: int | None

    @property
    def typical_boot(self) -> float | None:
        """The median of `boots`."""
        return median(self.boots) if self.boots else None

    @classmethod
    def of(cls, report: LoadReport, **watched: Any) -> Seen:
        """Digest the report of a load."""
        statuses = Counter(str(r.status) for r in report.records if r.status in GATEWAY_ERRORS)
        replies = [0] * math.ceil(report.sending)
        for record in report.records:
            if record.ok and record.timestamp < len(replies):
                replies[int(record.timestamp)] += 1
        return cls(
            seconds=round(report.sending, 2),
            requests=report.requests,
            failed=report.requests - report.successes,
            failures=report.failures,
            gateway_errors=dict(statuses),
            silent_seconds=report.silent_seconds(),
            throughput=round(report.throughput, 2),
            p50=_latency(report, 50),
            p99=_latency(report, 99),
            longest=_latency(report, 100),
            replies=replies,
            **watched,
        )


@dataclass
class Measurement:
    """One side of one cell, once.

    Attributes:
        ready: seconds from the start of the process to its first reply; None if there was none.
        all_ready: seconds until all workers served; None if they did not in `STARTUP_SECONDS`.
        memory: PSS of all its processes in MB once started.
        memory_at_end: the same after the loads; None if it had ended.
        stopped_after: seconds from SIGTERM to its end.
        restarts: how often it had to be started again because it had ended.
        loads: what was seen, by kind of load.
        problem: why there are no loads, or fewer.
    """

    ready: float | None = None
    all_ready: float | None = None
    memory: float | None = None
    memory_at_end: float | None = None
    stopped_after: float | None = None
    restarts: int = 0
    loads: dict[str, Seen] = field(default_factory=dict)
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Measurement:
        """The opposite of `as_json`."""
        loads = {kind: Seen(**seen) for kind, seen in values["loads"].items()}
        return cls(**{**values, "loads": loads})


def measure(
    command: Sequence[str],
    options: Sequence[str],
    cell: Cell,
    load: Load,
    *,
    python: str | Path,
) -> Measurement:
    """Start a proxy and send it each kind of load that the cell asks for.

    A proxy that has ended is started again for the next load.

    Args:
        command: of the proxy.
        options: beyond those that the cell stands for.
        cell: the set-up.
        load: what to send.
        python: the interpreter for clients that are not ours.
    """
    options = ["--num_workers", str(cell.workers), *options]
    options += ["--run_gunicorn"] if cell.server == "gunicorn" else []
    found = Measurement()
    kinds = list(cell.kinds)
    with load.provider() as provider:
        config = default_config(provider.base_url, ["openai"])
        while kinds and not found.problem:
            found.restarts += bool(found.loads)
            proxy = ProxyProcess(command, config, options, env=checkout_environment())
            with proxy:
                _wait_until_up(proxy, cell.workers, found)
                serves = not found.problem
                while kinds and serves:
                    kind = kinds.pop(0)
                    found.loads[kind] = _send(kind, proxy, cell, load, python=python)
                    serves = bool(kinds) and _serves_again(proxy, cell.workers)
                found.memory_at_end = _memory(proxy)
                began = time.monotonic()
                ended = proxy.exit_status() is not None
                proxy.stop()
                found.stopped_after = None if ended else round(time.monotonic() - began, 2)
    return found


def _wait_until_up(proxy: ProxyProcess, workers: int, found: Measurement) -> None:
    began = time.monotonic()
    try:
        proxy.wait_ready(STARTUP_SECONDS)
    except ProxyError as error:
        found.problem = str(error)
        return
    ready = round(time.monotonic() - began, 2)
    all_ready = None
    with contextlib.suppress(ProxyError):
        proxy.wait_workers(workers, STARTUP_SECONDS - ready)
        all_ready = round(time.monotonic() - began, 2)
    if found.ready is None:
        found.ready, found.all_ready, found.memory = ready, all_ready, _memory(proxy)


def _serves_again(proxy: ProxyProcess, workers: int) -> bool:
    """Wait for all workers; False if the proxy has ended."""
    with contextlib.suppress(ProxyError):
        proxy.wait_workers(workers, SETTLE_SECONDS)
    return proxy.exit_status() is None


def _send(kind: str, proxy: ProxyProcess, cell: Cell, load: Load, *, python: str | Path) -> Seen:
    serving = len(proxy.workers())
    logged = len(READY.findall(proxy.log_text()))
    with _port(cell, proxy) as port, WorkerWatcher(proxy, interval=0.1) as watcher:
        began = time.monotonic()
        if cell.client == "openai":
            report = _openai(proxy, port, kind, load.of_kind(kind), python)
        else:
            report = asyncio.run(_keep_alive(proxy, port, kind, load.of_kind(kind)))
    # The clients of another process begin once it has started.
    began = max(began, time.monotonic() - report.duration) if cell.client == "openai" else began
    return Seen.of(
        report,
        recycles=sorted(round(left - began, 2) for left in watcher.left.values()),
        boots=_boots(proxy, watcher, logged),
        serving=serving,
        exit_status=proxy.exit_status(),
    )


@contextlib.contextmanager
def _port(cell: Cell, proxy: ProxyProcess) -> Iterator[int]:
    """The TCP port that clients connect to."""
    if cell.front == "none":
        yield proxy.port
    else:
        with Front(cell.front, proxy.port) as front:
            yield front.port


async def _keep_alive(proxy: ProxyProcess, port: int, kind: str, load: Load) -> LoadReport:
    return await run_load(
        proxy.host,
        port,
        clients=load.clients,
        seconds=load.seconds,
        max_requests=load.requests,
        body=chat(MODEL),
        headers=proxy.headers,
        stream=kind == "stream",
        timeout=TIMEOUT,
        notice_idle_close=False,
    )


def _openai(
    proxy: ProxyProcess, port: int, kind: str, load: Load, python: str | Path
) -> LoadReport:
    wanted = openai_load.Wanted(
        base_url=f"http://{proxy.host}:{port}/v1",
        api_key=proxy.master_key,
        model=MODEL,
        clients=load.clients,
        seconds=load.seconds,
        timeout=TIMEOUT,
        stream=kind == "stream",
    )
    env = {**os.environ, **checkout_environment(), "NO_PROXY": "127.0.0.1"}
    return openai_load.run([str(python)], wanted, env)


def _boots(proxy: ProxyProcess, watcher: WorkerWatcher, logged: int) -> list[float]:
    ours = [float(seconds) for seconds in READY.findall(proxy.log_text())]
    if ours:
        return ours[logged:]
    began = min(watcher.joined.values(), default=0.0)
    later = sorted(moment for moment in watcher.joined.values() if moment > began)
    return [
        round(joined - left, 2)
        for left, joined in zip(sorted(watcher.left.values()), later, strict=False)
        if joined > left
    ]


def _memory(proxy: ProxyProcess) -> float | None:
    """PSS of all processes in MB: shared pages counted once."""
    total = 0
    for pid in proxy.processes():
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            total += int(found[1]) if found else 0
    return round(total / 1024, 1) if total else None


def _latency(report: LoadReport, percent: float) -> float | None:
    seconds = report.percentile(percent)
    return None if math.isnan(seconds) else round(seconds, 4)
