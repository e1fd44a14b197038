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
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands import MODEL, add_commands, add_number, started
from benchmarks.report import Comparison, Machine, Outcome, compared, order
from benchmarks.setups import STARTUP_SECONDS
from litellm_resilience.demo.load import LoadReport, run_load
from litellm_resilience.demo.proxy import chat

if TYPE_CHECKING:
    import argparse

    from tests.support.proxy import ProxyProcess

GOAL = 0.99
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_number(parser, "--starts", 2, "of both proxies")
    add_number(parser, "--rounds", 20, "per start and side")
    add_number(parser, "--seconds", 1.0, "length of a round")
    add_number(parser, "--warmup", 4.0, "unmeasured seconds per start and side")
    add_number(parser, "--clients", 8, "keep-alive connections")
    parser.add_argument("--stream", action="store_true", help="ask for streamed replies")
    add_commands(parser)


def run(args: argparse.Namespace) -> Outcome:
    """Start both proxies, load them in turns and stop them."""
    machine = Machine.here()
    commands = {"plain": args.plain_command, "resilient": args.resilient_command}
    comparisons = (
        Comparison("requests per second", "/s", goal=GOAL, better="larger"),
        Comparison("CPU time of the proxy per request", "ms"),
        Comparison("median latency", "ms"),
    )
    problems: list[str] = []
    for start in range(args.starts):
        with contextlib.ExitStack() as stack:
            proxies = {}
            for side in order(start):
                command = shlex.split(commands[side])
                both = started(command, ["--num_workers", "1"], delay=0.0, chunk_interval=0.0)
                proxies[side], _ = stack.enter_context(both)
            for proxy in proxies.values():
                proxy.wait_ready(STARTUP_SECONDS)
            for proxy in proxies.values():
                _load(proxy, args.warmup, args)
            for number in range(args.rounds):
                for side in order(start + number):
                    _measure(side, proxies[side], comparisons, problems, args)
                shown = (f"{each[-1]:.1f}/s {side}" for side, each in comparisons[0].rounds.items())
                turn = f"start {start + 1} of {args.starts}, round {number + 1} of {args.rounds}"
                print(f"{turn}: {', '.join(shown)}", file=sys.stderr)
    kind = "Streamed chat completions" if args.stream else "Chat completions"
    conditions = (
        f"{kind}, {args.clients} keep-alive clients, one worker, a provider that answers at once; "
        f"medians of {args.starts} times {args.rounds} alternating rounds of {args.seconds:g} s "
        "per side, after a start of both each time."
    )
    return compared("Throughput", conditions, machine, comparisons, problems)


def _measure(
    side: str,
    proxy: ProxyProcess,
    comparisons: tuple[Comparison, ...],
    problems: list[str],
    args: argparse.Namespace,
) -> None:
    before = _cpu_seconds(proxy)
    report = _load(proxy, args.seconds, args)
    spent = _cpu_seconds(proxy) - before
    if report.failures:
        problems.append(f"{side}: failed requests: {report.failures}")
    if not report.successes:
        raise SystemExit(f"no request succeeded:\n{proxy.log_tail()}")
    values = (report.throughput, 1000 * spent / report.successes, 1000 * report.percentile(50))
    for comparison, value in zip(comparisons, values, strict=True):
        comparison.rounds[side].append(value)


def _load(proxy: ProxyProcess, seconds: float, args: argparse.Namespace) -> LoadReport:
    """Load this proxy, and no other."""
    return asyncio.run(
        run_load(
            proxy.host,
            proxy.port,
            clients=args.clients,
            seconds=seconds,
            body=chat(MODEL),
            headers=proxy.headers,
            stream=args.stream,
        )
    )


def _cpu_seconds(proxy: ProxyProcess) -> float:
    """User and system time of all the proxy's processes so far."""
    ticks = 0
    for pid in proxy.processes():
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            ticks += sum(map(int, stat[stat.rindex(")") + 2 :].split()[11:13]))
    return ticks / TICKS_PER_SECOND
