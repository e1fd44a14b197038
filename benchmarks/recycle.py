"""What clients see while workers are recycled, plain `litellm` against `litellm-resilience`.

One set-up of the matrix that is measured without a subcommand, with the LiteLLM of this
interpreter, and with choices that the matrix has not.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from benchmarks.cell import measure
from benchmarks.commands import add_commands, add_limit, add_number, positive
from benchmarks.report import Comparison, Machine, Outcome, compared
from benchmarks.setups import SERVERS, SIDES, Cell, Load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from benchmarks.results import Measurement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_number(parser, "--workers", 2)
    add_limit(parser)
    add_number(parser, "--clients", 4, "keep-alive connections")
    add_number(parser, "--seconds", 40.0, "length of the load")
    add = parser.add_argument
    add("--requests", type=positive(int), help="end after so many requests at the latest")
    add("--delay", type=float, default=0.02, help="seconds the provider takes (default: 0.02)")
    add("--stream", action="store_true", help="ask for streams that take --stream_seconds")
    add_number(parser, "--stream_seconds", 3.0)
    add("--gunicorn", action="store_true", help="serve with gunicorn instead of uvicorn")
    add(
        "--baseline",
        choices=("litellm", "unlimited", "none"),
        default="litellm",
        help="compare with plain litellm, with litellm-resilience that recycles nothing, or with "
        "nothing (default: litellm)",
    )
    add_commands(parser)


def run(args: argparse.Namespace) -> Outcome:
    """Measure one side after the other."""
    machine = Machine.here()
    cell = Cell(
        line=machine.versions["litellm"] or "",
        server=SERVERS[args.gunicorn],
        workers=args.workers,
        kinds=("stream",) if args.stream else ("json",),
    )
    load = Load(
        seconds=args.seconds,
        limit=args.limit,
        jitter=args.jitter,
        clients=args.clients,
        stream_clients=args.clients,
        delay=args.delay,
        stream_seconds=args.stream_seconds,
        requests=args.requests,
    )
    comparisons: dict[str, Comparison] = {}
    problems: list[str] = []
    for side in SIDES if args.baseline != "none" else SIDES[1:]:
        ours = side == "resilient" or args.baseline == "unlimited"
        command = args.resilient_command if ours else args.plain_command
        limited = side == "resilient" or args.baseline == "litellm"
        options = load.options(side) if limited else []
        found = measure(shlex.split(command), options, cell, load, python=sys.executable)
        if found.problem:
            problems.append(f"{side}: {found.problem}")
        for seen in found.loads.values():
            if seen.failures:
                print(f"{side}: {seen.failures}", file=sys.stderr, flush=True)
        for name, unit, value in _figures(found):
            comparison = comparisons.setdefault(name, Comparison(name, unit))
            if value is not None:
                comparison.rounds[side].append(value)
    kind = f"streams of {args.stream_seconds:g} s" if args.stream else "chat completions"
    conditions = (
        f"{cell.workers} {cell.server} workers, limit {args.limit} + {args.jitter}, "
        f"{args.clients} keep-alive clients, {kind}, {args.seconds:g} s per side; left column: "
        f"{args.baseline}."
    )
    return compared("Recycling", conditions, machine, [*comparisons.values()], problems)


def _figures(found: Measurement) -> Iterator[tuple[str, str, float | None]]:
    yield "time to the first reply", "s", found.ready
    yield "time until all workers serve", "s", found.all_ready
    yield "memory (PSS) then", "MB", found.memory
    for seen in found.loads.values():
        yield "requests", "", seen.requests
        yield "failed requests", "", seen.failed
        yield "seconds without a reply", "", seen.silent_seconds
        yield "workers recycled", "", len(seen.recycles)
        yield "replacement ready after (median)", "s", seen.typical_boot
        yield "replacement ready after (longest)", "s", max(seen.boots, default=None)
        yield "requests per second", "/s", seen.throughput
        for name, seconds in (("median latency", seen.p50), ("99th percentile", seen.p99)):
            yield name, "ms", None if seconds is None else 1000 * seconds
    yield "memory (PSS) at the end", "MB", found.memory_at_end
    yield "stopped after", "s", found.stopped_after
