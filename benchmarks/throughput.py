"""Requests per second through a real proxy, plain `litellm` against `litellm-resilient`.

Both proxies (one worker each) and a fake provider that answers at once run in processes of their
own; this process sends the load, over keep-alive connections, to one proxy at a time, in short
rounds that alternate. Both are started several times: two starts of the same proxy differ by a few
percent. Next to the rate it reports the CPU time per request of each proxy, which depends less on
what else the machine does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.commands import MODEL, command, started
from benchmarks.report import Comparison, order
from benchmarks.setups import STARTUP_SECONDS
from litellm_resilience.demo.load import LoadReport, run_load
from litellm_resilience.demo.proxy import chat

if TYPE_CHECKING:
    from tests.support.proxy import ProxyProcess

STARTS = 3
ROUNDS = 20
"""Per start and side."""
SECONDS = 1.0
"""Length of a round."""
WARMUP_SECONDS = 4.0
CLIENTS = 8
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def part() -> dict[str, Any]:
    """Start both proxies, load them in turns and stop them."""
    comparisons = (
        Comparison("requests per second", "/s"),
        Comparison("CPU time of the proxy per request", "ms"),
        Comparison("median latency", "ms"),
    )
    problems: list[str] = []
    for start in range(STARTS):
        with contextlib.ExitStack() as stack:
            proxies = {}
            for side in order(start):
                options = ("--num_workers", "1")
                both = started(command(side), options, delay=0.0, chunk_interval=0.0)
                proxies[side], _ = stack.enter_context(both)
            for proxy in proxies.values():
                proxy.wait_ready(STARTUP_SECONDS)
            for proxy in proxies.values():
                _load(proxy, WARMUP_SECONDS)
            for number in range(ROUNDS):
                for side in order(start + number):
                    _measure(side, proxies[side], comparisons, problems)
                shown = (f"{each[-1]:.1f}/s {side}" for side, each in comparisons[0].rounds.items())
                turn = f"start {start + 1} of {STARTS}, round {number + 1} of {ROUNDS}"
                print(f"{turn}: {', '.join(shown)}", file=sys.stderr)
    return {"results": [each.as_json() for each in comparisons], "problems": problems}


def _measure(
    side: str, proxy: ProxyProcess, comparisons: tuple[Comparison, ...], problems: list[str]
) -> None:
    before = cpu_seconds(proxy)
    report = _load(proxy, SECONDS)
    spent = cpu_seconds(proxy) - before
    if report.failures:
        problems.append(f"{side}: failed requests: {report.failures}")
    if not report.successes:
        raise SystemExit(f"no request succeeded:\n{proxy.log_tail()}")
    values = (report.throughput, 1000 * spent / report.successes, 1000 * report.percentile(50))
    for comparison, value in zip(comparisons, values, strict=True):
        comparison.rounds[side].append(value)


def _load(proxy: ProxyProcess, seconds: float) -> LoadReport:
    """Load this proxy, and no other."""
    return asyncio.run(
        run_load(
            proxy.host,
            proxy.port,
            clients=CLIENTS,
            seconds=seconds,
            body=chat(MODEL),
            headers=proxy.headers,
        )
    )


def cpu_seconds(proxy: ProxyProcess) -> float:
    """User and system time of all the proxy's processes so far."""
    ticks = 0
    for pid in proxy.processes():
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            ticks += sum(map(int, stat[stat.rindex(")") + 2 :].split()[11:13]))
    return ticks / TICKS_PER_SECOND
