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
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands import MODEL, add_limit, add_number, started
from benchmarks.report import Machine, table
from benchmarks.setups import STARTUP_SECONDS
from litellm_resilience.demo.load import KeepAliveClient, RequestError
from litellm_resilience.demo.proxy import WorkerWatcher, chat
from litellm_resilience.plan.recording import Recording
from litellm_resilience.plan.validation import compare
from tests.support.proxy import PLAIN

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tests.support.proxy import ProxyProcess

OURS = (sys.executable, "-c", "from litellm_resilience.command.entry import main; main()")
UPSTREAM_SUPERVISOR = {"LITELLM_RESILIENCE_DISABLE": "worker-supervisor"}
TOLERABLE = 0.05
"""Share of requests whose failure leaves the load what it was meant to be."""
PATIENCE = 120.0
"""Seconds a client waits for its reply: longer than any time without a worker."""
HEADER = ("Figure", "measured", "planned", "95 % of such runs", "agrees")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_number(parser, "--workers", 2)
    add_limit(parser, limit=300, jitter=0)
    add_number(parser, "--rate", 10.0, "requests per second")
    add_number(parser, "--seconds", 480.0, "length of the run")
    parser.add_argument("--recording", type=Path, help="write what was seen into this file")


def run(args: argparse.Namespace) -> Sequence[str]:
    """Watch plain LiteLLM recycle its workers, plan the same, and print both.

    Returns:
        What was not as intended.
    """
    options = ["--num_workers", str(args.workers)]
    options += ["--max_requests_before_restart", str(args.limit)]
    options += ["--max_requests_jitter", str(args.jitter)] if args.jitter else []
    argv = OURS if args.jitter else PLAIN
    with started(argv, options, env=UPSTREAM_SUPERVISOR, delay=0.02) as (proxy, _):
        proxy.wait_ready(STARTUP_SECONDS)
        proxy.wait_workers(args.workers, STARTUP_SECONDS)
        print(f"{args.workers} workers serve, {args.seconds:g} s of load ...", file=sys.stderr)
        recording, lost = _record(proxy, args)
    if args.recording:
        recording.save(args.recording)
    if not recording.resumed:
        raise SystemExit("no worker was recycled: lower --limit, or raise --seconds")
    rows = [
        (
            check.name,
            f"{check.measured:.3g}",
            f"{check.planned.value:.3g}",
            f"{check.planned.low:.3g} to {check.planned.high:.3g}",
            "yes" if check.agrees else "no",
        )
        for check in compare(recording)
    ]
    print(
        f"{table(HEADER, rows)}\n\n"
        f"{args.workers} workers, limit {args.limit} + {args.jitter}, {args.rate:g} requests per "
        f"second, {recording.seconds:.0f} s, {len(recording.stopped)} recycles; down for "
        f"{recording.boot_seconds:.1f} s each; {recording.origin}."
    )
    return [f"{lost:.0%} of the requests failed"] if lost > TOLERABLE else []


def _record(proxy: ProxyProcess, args: argparse.Namespace) -> tuple[Recording, float]:
    """What was seen of the workers under load, and the share of requests that failed."""
    machine = Machine.here()
    with WorkerWatcher(proxy) as watcher:
        began = time.monotonic()
        lost = asyncio.run(_send_at_rate(proxy, args.rate, args.seconds))
        seconds = time.monotonic() - began
    packages = ", ".join(f"{name} {machine.versions[name]}" for name in ("litellm", "uvicorn"))
    today = time.strftime("%Y-%m-%d")
    recording = Recording(
        origin=f"python -m benchmarks plan, {today}, {machine.cores} cores, {packages}",
        workers=args.workers,
        limit=args.limit,
        jitter=args.jitter,
        rate=args.rate,
        seconds=round(seconds, 2),
        stopped=_since(began, watcher.left),
        resumed=_since(began, watcher.joined),
    )
    return recording, lost


def _since(began: float, moments: dict[int, float]) -> tuple[float, ...]:
    return tuple(round(moment - began, 2) for moment in sorted(moments.values()) if moment > began)


async def _send_at_rate(proxy: ProxyProcess, rate: float, seconds: float) -> float:
    """Send requests at equal intervals, whether or not the earlier ones were answered.

    Each has a connection of its own: new connections are what the workers of a shared socket share
    evenly; a kept connection stays with its worker.

    Args:
        proxy: where to.
        rate: requests per second.
        seconds: how long to go on.

    Returns:
        The share of requests without a complete reply of status 2xx or 3xx.
    """
    headers = {**proxy.headers, "Connection": "close"}
    sent = failed = 0

    async def send() -> None:
        nonlocal failed
        client = KeepAliveClient(proxy.host, proxy.port, headers=headers, timeout=PATIENCE)
        async with client:
            try:
                reply = await client.request("POST", "/v1/chat/completions", chat(MODEL))
            except RequestError:
                failed += 1
            else:
                failed += reply.failure is not None

    loop = asyncio.get_running_loop()
    began = loop.time()
    tasks: set[asyncio.Task[None]] = set()
    while (due := began + sent / rate) < began + seconds:
        await asyncio.sleep(max(0.0, due - loop.time()))
        sent += 1
        task = asyncio.create_task(send())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return failed / max(1, sent)
