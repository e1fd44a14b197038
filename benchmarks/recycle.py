"""What clients see while workers are recycled, plain `litellm` against `litellm-resilient`.

One proxy after the other serves the same load of keep-alive clients that do not retry and that
count an idle connection closed without announcement as a failed request, as most HTTP clients
would see it. Between them, a fake provider on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.commands import MODEL, STARTUP_SECONDS, add_commands, add_recycling
from benchmarks.report import Comparison, Machine, Result, positive
from litellm_resilience.demo.load import LoadReport, run_load
from litellm_resilience.demo.provider import ProviderProcess
from litellm_resilience.demo.proxy import (
    ProxyError,
    ProxyProcess,
    WorkerWatcher,
    chat,
    default_config,
)

if TYPE_CHECKING:
    import argparse

READY = re.compile(r"Worker \d+ \(pid \d+\) ready after ([\d.]+) s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_recycling(parser)
    add = parser.add_argument
    add("--clients", type=positive(int), default=4, help="keep-alive connections (default: 4)")
    add("--seconds", type=positive(float), default=40.0, help="length of the load (default: 40)")
    add("--requests", type=positive(int), help="end after so many requests at the latest")
    add("--delay", type=float, default=0.02, help="seconds the provider takes (default: 0.02)")
    add("--stream", action="store_true", help="ask for streams that take --stream_seconds")
    add("--stream_seconds", type=positive(float), default=3.0, help="default: 3")
    add("--gunicorn", action="store_true", help="serve with gunicorn instead of uvicorn")
    add(
        "--baseline",
        choices=("litellm", "unlimited", "none"),
        default="litellm",
        help="compare with plain litellm, with litellm-resilience that recycles nothing, or with "
        "nothing (default: litellm)",
    )
    add_commands(parser)


def run(args: argparse.Namespace) -> Result:
    """Measure one side after the other."""
    machine = Machine.here()
    server = "gunicorn" if args.gunicorn else "uvicorn"
    kind = f"streams of {args.stream_seconds:g} s" if args.stream else "chat completions"
    result = Result(
        title="Recycling",
        conditions=f"{args.workers} {server} workers, limit {args.limit} + {args.jitter}, "
        f"{args.clients} keep-alive clients, {kind}, {args.seconds:g} s per side; left column: "
        f"{args.baseline}.",
        machine=machine,
        comparisons=[],
    )
    chunks = {"chunks": args.stream_seconds * 10, "chunk_interval": 0.1} if args.stream else {}
    with ProviderProcess(delay=args.delay, **chunks) as provider:
        config = default_config(provider.base_url, ["openai"])
        for side in ("plain", "resilient") if args.baseline != "none" else ("resilient",):
            options = ["--num_workers", str(args.workers)]
            ours = side == "resilient" or args.baseline == "unlimited"
            if side == "resilient" or args.baseline == "litellm":
                options += ["--max_requests_before_restart", str(args.limit)]
            if side == "resilient":
                options += ["--max_requests_jitter", str(args.jitter)]
            if args.gunicorn:
                options.append("--run_gunicorn")
            command = args.resilient_command if ours else args.plain_command
            with ProxyProcess(shlex.split(command), config, options) as proxy:
                _measure(side, proxy, args, result)
    return result


def _measure(side: str, proxy: ProxyProcess, args: argparse.Namespace, result: Result) -> None:
    figures = _Figures(result, side)
    began = time.monotonic()
    proxy.wait_ready(STARTUP_SECONDS)
    figures.add("time to the first reply", "s", time.monotonic() - began)
    proxy.wait_workers(args.workers, STARTUP_SECONDS)
    figures.add("time until all workers serve", "s", time.monotonic() - began)
    figures.add("memory (PSS) then", "MB", _pss(proxy))
    with WorkerWatcher(proxy, interval=0.1) as watcher:
        report = asyncio.run(_load(proxy, args))
    figures.add("requests", "", report.requests)
    figures.add("failed requests", "", report.requests - report.successes)
    if args.stream:
        figures.add("streams that ended with [DONE]", "", report.streams_done)
    else:
        figures.add("seconds without a reply", "", report.silent_seconds())
    figures.add("workers recycled", "", len(watcher.left))
    boots = _boots(proxy, watcher, args.workers)
    if boots:
        figures.add("replacement ready after (median)", "s", median(boots))
        figures.add("replacement ready after (longest)", "s", max(boots))
    figures.add("requests per second", "/s", report.throughput)
    figures.add("median latency", "ms", report.percentile(50) * 1000)
    figures.add("99th percentile", "ms", report.percentile(99) * 1000)
    with contextlib.suppress(ProxyError):
        figures.add("memory (PSS) at the end", "MB", _pss(proxy))
    began = time.monotonic()
    proxy.stop()
    figures.add("stopped after", "s", time.monotonic() - began)
    if report.failures:
        print(f"{side}: {report.failures}", file=sys.stderr, flush=True)


async def _load(proxy: ProxyProcess, args: argparse.Namespace) -> LoadReport:
    return await run_load(
        proxy.host,
        proxy.port,
        clients=args.clients,
        seconds=args.seconds,
        max_requests=args.requests,
        body=chat(MODEL, stream=True) if args.stream else chat(MODEL),
        headers=proxy.headers,
        stream=args.stream,
        notice_idle_close=False,
    )


class _Figures:
    """Adds figures of one side to a result."""

    def __init__(self, result: Result, side: str) -> None:
        self._result = result
        self._side = side

    def add(self, name: str, unit: str, value: float) -> None:
        found = [each for each in self._result.comparisons if each.name == name]
        if not found:
            found = [Comparison(name, unit)]
            self._result.comparisons += found
        found[0].add(self._side, value)


def _boots(proxy: ProxyProcess, watcher: WorkerWatcher, workers: int) -> list[float]:
    """How long replacements took: as our log says, else from the end of the old worker on."""
    ours = [float(seconds) for seconds in READY.findall(proxy.log_text())[workers:]]
    if ours:
        return ours
    later = sorted(watcher.joined.values())[workers:]
    return [
        joined - left for left, joined in zip(sorted(watcher.left.values()), later, strict=False)
    ]


def _pss(proxy: ProxyProcess) -> float:
    """Memory of all processes in MB, shared pages counted once."""
    total = 0
    for pid in proxy.processes():
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            total += int(found[1]) if found else 0
    return total / 1024
