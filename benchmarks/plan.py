"""What `litellm-resilient --plan` says of plain `litellm`, against workers that are watched.

Plain `litellm` serves requests that arrive at a fixed rate, each over a connection of its own. When
workers stop and when their replacements serve is recorded, and compared with what the planner makes
of the same limit, rate and boot time, which is taken from the run. With --jitter the command is
ours with uvicorn's own supervisor, since not every LiteLLM has a jitter.

The command is not LiteLLM's script: a spawned worker would import that first, and on a busy machine
uvicorn's health check kills workers that take longer than 5 s for it. No plan foresees that.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands import MODEL, STARTUP_SECONDS, add_recycling
from benchmarks.open_loop import Tally, send_at_rate
from benchmarks.report import Machine, positive
from litellm_resilience.demo.proxy import WorkerWatcher, chat, default_config
from litellm_resilience.plan.recording import Recording
from litellm_resilience.plan.validation import Check, compare
from tests.support.provider import ProviderProcess
from tests.support.proxy import PLAIN, ProxyProcess

if TYPE_CHECKING:
    import argparse

OURS = (sys.executable, "-c", "from litellm_resilience.command.entry import main; main()")
UPSTREAM_SUPERVISOR = {"LITELLM_RESILIENCE_DISABLE": "worker-supervisor"}
TOLERABLE = 0.05
"""Share of requests whose failure leaves the load what it was meant to be."""
HEADER = ("Figure", "measured", "planned", "95 % of such runs", "agrees")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_recycling(parser)
    add = parser.add_argument
    add("--rate", type=positive(float), default=10.0, help="requests per second (default: 10)")
    add("--seconds", type=positive(float), default=480.0, help="length of the run (default: 480)")
    add("--recording", type=Path, help="write what was seen into this file")
    add("--command", help="default: plain litellm, or ours with a jitter")


@dataclass
class Comparison:
    """The outcome.

    Attributes:
        recording: what was seen.
        machine: on what.
        checks: figures of the run, measured and planned.
        problems: requests that failed in a way that changes the load.
    """

    recording: Recording
    machine: Machine
    checks: list[Check]
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """The outcome as JSON text."""
        return json.dumps(asdict(self), indent=2)

    def as_markdown(self) -> str:
        """The outcome as a Markdown section."""
        rows = [HEADER, ("---",) * len(HEADER)]
        for check in self.checks:
            planned = check.planned
            rows.append(
                (
                    check.name,
                    f"{check.measured:.3g}",
                    f"{planned.value:.3g}",
                    f"{planned.low:.3g} to {planned.high:.3g}",
                    "yes" if check.agrees else "no",
                )
            )
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        run = self.recording
        load = f"limit {run.limit} + {run.jitter}, {run.rate:g} requests per second"
        length = f"{run.seconds:.0f} s, {len(run.stopped)} recycles"
        notes = [
            f"{run.workers} workers, {load}, {length}; down for {run.boot_seconds:.1f} s each.",
            f"Machine: {self.machine}.",
            *(f"**Problem:** {problem}" for problem in self.problems),
        ]
        return "\n\n".join(["### Planned and measured", table, *notes])


def run(args: argparse.Namespace) -> Comparison:
    """Watch plain LiteLLM recycle its workers, and plan the same."""
    machine = Machine.here()
    options = ["--num_workers", str(args.workers)]
    options += ["--max_requests_before_restart", str(args.limit)]
    if args.jitter:
        options += ["--max_requests_jitter", str(args.jitter)]
    command = shlex.split(args.command) if args.command else OURS if args.jitter else PLAIN
    with ProviderProcess(delay=0.02) as provider:
        config = default_config(provider.base_url, ["openai"])
        with ProxyProcess(command, config, options, env=UPSTREAM_SUPERVISOR) as proxy:
            proxy.wait_ready(STARTUP_SECONDS)
            proxy.wait_workers(args.workers, STARTUP_SECONDS)
            recording, tally = _record(proxy, machine, args)
    if args.recording:
        recording.save(args.recording)
    if not recording.resumed:
        raise SystemExit("no worker was recycled: lower --limit, or raise --seconds")
    lost = tally.failed / max(1, tally.sent)
    problems = [f"{lost:.0%} of the requests failed"] if lost > TOLERABLE else []
    return Comparison(recording, machine, compare(recording), problems)


def _record(
    proxy: ProxyProcess, machine: Machine, args: argparse.Namespace
) -> tuple[Recording, Tally]:
    print(f"{args.workers} workers serve, {args.seconds:g} s of load ...", file=sys.stderr)
    with WorkerWatcher(proxy) as watcher:
        began = time.monotonic()
        tally = asyncio.run(
            send_at_rate(
                proxy.host,
                proxy.port,
                rate=args.rate,
                seconds=args.seconds,
                body=chat(MODEL),
                headers=proxy.headers,
            )
        )
        seconds = time.monotonic() - began
    recording = Recording(
        origin=_origin(machine),
        workers=args.workers,
        limit=args.limit,
        jitter=args.jitter,
        rate=args.rate,
        seconds=round(seconds, 2),
        stopped=_since(began, watcher.left),
        resumed=_since(began, watcher.joined),
    )
    return recording, tally


def _origin(machine: Machine) -> str:
    packages = ", ".join(f"{name} {machine.versions[name]}" for name in ("litellm", "uvicorn"))
    return (
        f"python -m benchmarks plan, {time.strftime('%Y-%m-%d')}, {machine.cores} cores, {packages}"
    )


def _since(began: float, moments: dict[int, float]) -> tuple[float, ...]:
    return tuple(round(moment - began, 2) for moment in sorted(moments.values()) if moment > began)
