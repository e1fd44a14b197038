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
from typing import TYPE_CHECKING, Any

from benchmarks.commands import STARTUP_SECONDS, add_commands
from benchmarks.report import Comparison, Machine, Result, order, positive
from litellm_resilience.demo.load import LoadReport, run_load
from litellm_resilience.demo.proxy import default_config
from tests.support.provider import ProviderProcess
from tests.support.proxy import ProxyProcess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

GOAL = 0.99
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
CONFIG_PROVIDER = "openai"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--starts", type=positive(int), default=2, help="of both proxies (default: 2)")
    add("--rounds", type=positive(int), default=20, help="per start and side (default: 20)")
    add("--seconds", type=positive(float), default=1.0, help="length of a round (default: 1)")
    add(
        "--warmup",
        type=positive(float),
        default=4.0,
        help="unmeasured seconds per start and side (default: 4)",
    )
    add("--clients", type=positive(int), default=8, help="keep-alive connections (default: 8)")
    add("--stream", action="store_true", help="ask for streamed replies")
    add_commands(parser)


def run(args: argparse.Namespace) -> Result:
    """Start both proxies, load them in turns and stop them."""
    machine = Machine.here()
    commands = {"plain": args.plain_command, "resilient": args.resilient_command}
    kind = "streamed chat completions" if args.stream else "chat completions"
    result = Result(
        title="Throughput",
        conditions=f"{kind.capitalize()}, {args.clients} keep-alive clients, one worker, a "
        f"provider that answers at once; medians of {args.starts} times {args.rounds} alternating "
        f"rounds of {args.seconds:g} s per side, after a start of both each time.",
        machine=machine,
        comparisons=[
            Comparison("requests per second", "/s", goal=GOAL, better="larger"),
            Comparison("CPU time of the proxy per request", "ms"),
            Comparison("median latency", "ms"),
        ],
    )
    with ProviderProcess(chunk_interval=0.0, delay=0.0) as provider:
        config = default_config(provider.base_url, [CONFIG_PROVIDER])
        for start in range(args.starts):
            _measure_one_start(start, commands, config, args, result)
    return result


def _measure_one_start(
    start: int,
    commands: Mapping[str, str],
    config: Mapping[str, Any],
    args: argparse.Namespace,
    result: Result,
) -> None:
    with contextlib.ExitStack() as stack:
        sides = {
            side: _Side(
                stack.enter_context(
                    ProxyProcess(shlex.split(commands[side]), config, ["--num_workers", "1"])
                ),
                args,
            )
            for side in order(start)
        }
        for side in sides.values():
            side.proxy.wait_ready(STARTUP_SECONDS)
        for side in sides.values():
            side.load(args.warmup)
        for number in range(args.rounds):
            for name in order(start + number):
                _measure(name, sides[name], args.seconds, result)
            rates = result.comparisons[0]
            print(
                f"start {start + 1} of {args.starts}, round {number + 1} of {args.rounds}: "
                f"{rates.plain[-1]:.1f}/s plain, {rates.resilient[-1]:.1f}/s resilient",
                file=sys.stderr,
            )


class _Side:
    def __init__(self, proxy: ProxyProcess, args: argparse.Namespace) -> None:
        self.proxy = proxy
        self._clients = args.clients
        self._stream = args.stream
        self._body: dict[str, Any] = {
            "model": f"demo-{CONFIG_PROVIDER}",
            "messages": [{"role": "user", "content": "Hello"}],
        }

    def load(self, seconds: float) -> LoadReport:
        """Load this proxy, and no other."""
        return asyncio.run(
            run_load(
                self.proxy.host,
                self.proxy.port,
                clients=self._clients,
                seconds=seconds,
                body=self._body,
                headers=self.proxy.headers,
                stream=self._stream,
            )
        )

    def cpu_seconds(self) -> float:
        """User and system time of all the proxy's processes so far."""
        return sum(_cpu_ticks(pid) for pid in self.proxy.processes()) / TICKS_PER_SECOND


def _measure(name: str, side: _Side, seconds: float, result: Result) -> None:
    before = side.cpu_seconds()
    report = side.load(seconds)
    spent = side.cpu_seconds() - before
    if report.failures:
        result.problems.append(f"{name}: failed requests: {report.failures}")
    if not report.successes:
        raise SystemExit(f"no request succeeded:\n{side.proxy.log_tail()}")
    rate, cpu, latency = result.comparisons
    rate.add(name, report.throughput)
    cpu.add(name, 1000 * spent / report.successes)
    latency.add(name, 1000 * report.percentile(50))


def _cpu_ticks(pid: int) -> int:
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        fields = stat[stat.rindex(")") + 2 :].split()
        return int(fields[11]) + int(fields[12])
    return 0
