"""What clients see while workers are recycled, plain `litellm` against `litellm-resilience`.

One set-up of the matrix that is measured without a subcommand, with the LiteLLM of this
interpreter, and with choices that the matrix has not.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from benchmarks.cell import Load, Measurement, measure
from benchmarks.commands import add_commands, add_recycling
from benchmarks.matrix import Cell
from benchmarks.report import SIDES, Comparison, Machine, Result, positive
from litellm_resilience.status.versions import installed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


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
    cell = Cell(
        line=installed("litellm") or "",
        server="gunicorn" if args.gunicorn else "uvicorn",
        workers=args.workers,
        kinds=("stream",) if args.stream else ("json",),
    )
    kind = f"streams of {args.stream_seconds:g} s" if args.stream else "chat completions"
    result = Result(
        title="Recycling",
        conditions=f"{cell.workers} {cell.server} workers, limit {args.limit} + {args.jitter}, "
        f"{args.clients} keep-alive clients, {kind}, {args.seconds:g} s per side; left column: "
        f"{args.baseline}.",
        machine=Machine.here(),
        comparisons=[],
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
    for side in SIDES if args.baseline != "none" else SIDES[1:]:
        ours = side == "resilient" or args.baseline == "unlimited"
        command = args.resilient_command if ours else args.plain_command
        limited = side == "resilient" or args.baseline == "litellm"
        options = load.options(side) if limited else []
        found = measure(shlex.split(command), options, cell, load, python=sys.executable)
        _add(result, side, found)
    return result


def _add(result: Result, side: str, found: Measurement) -> None:
    if found.problem:
        result.problems.append(f"{side}: {found.problem}")
    for seen in found.loads.values():
        if seen.failures:
            print(f"{side}: {seen.failures}", file=sys.stderr, flush=True)
    by_name = {comparison.name: comparison for comparison in result.comparisons}
    for name, unit, value in _figures(found):
        if name not in by_name:
            by_name[name] = Comparison(name, unit)
            result.comparisons.append(by_name[name])
        if value is not None:
            by_name[name].add(side, value)


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
