"""A long run of `litellm-resilience`, in slices: how many of how many requests fail at most.

With a stack, how many records of replies are missing in its database and at its logging sink.

Each slice starts a proxy, loads it, and adds a line to the state file; the same command later goes
on from there. It ends when there have been enough requests and enough recycles.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cell import measure
from benchmarks.commands import add_limit, add_number, command
from benchmarks.report import Machine
from benchmarks.results import DIRECTORY, LONG_RUN, LONG_RUN_RECORDS, LongRun
from benchmarks.setups import BARE, KINDS, STACKS, Cell, Load
from benchmarks.store import ConditionsError, check_conditions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_number(parser, "--requests", 100_000, "at least")
    add_number(parser, "--recycles", 300, "at least")
    state = f"file of the slices so far (default: {LONG_RUN}, or {LONG_RUN_RECORDS} with a stack)"
    parser.add_argument("--state", type=Path, help=state)
    parser.add_argument("--fresh", action="store_true", help="forget the slices so far")
    add_number(parser, "--workers", 2)
    parser.add_argument(
        "--stack", choices=STACKS, default=BARE, help="what is around the proxy (default: nothing)"
    )
    add_limit(parser, limit=250, jitter=100)
    add_number(parser, "--slice_seconds", 240.0)


def run(args: argparse.Namespace) -> Sequence[str]:
    """Add slices until there is enough, and print what all say together.

    Returns:
        What was not as intended.

    Raises:
        SystemExit: with status 2 if earlier slices were measured under other conditions.
    """
    machine = Machine.here()
    conditions = {
        "workers": args.workers,
        "limit": args.limit,
        "jitter": args.jitter,
        "kinds": " ".join(KINDS),
        **({} if args.stack == BARE else {"stack": args.stack}),
        "python": machine.python,
        "processor": f"{machine.cores} x {machine.processor}",
        **machine.versions,
    }
    default = LONG_RUN if args.stack == BARE else LONG_RUN_RECORDS
    args.state = args.state or DIRECTORY / default
    if args.fresh:
        args.state.unlink(missing_ok=True)
    try:
        total = resume(args.state, conditions)
    except ConditionsError as error:
        print(f"{args.state}: {error}; --fresh starts anew", file=sys.stderr)
        raise SystemExit(2) from error
    load = Load(seconds=args.slice_seconds, limit=args.limit, jitter=args.jitter)
    problems: list[str] = []
    while total.requests.total() < args.requests or total.recycles < args.recycles:
        kind = KINDS[total.slices % len(KINDS)]
        cell = Cell(
            total.conditions["litellm"], workers=args.workers, kinds=(kind,), stack=args.stack
        )
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        found = measure(command("resilient"), load.options("resilient", cell.line), cell, load)
        if kind not in found.loads:
            problems.append(found.problem)
            break
        seen = found.loads[kind]
        figures = {
            "kind": kind,
            "began": began,
            "requests": seen.requests,
            "failures": seen.failures,
            "recycles": len(seen.recycles),
            "seconds": seen.seconds,
            "records": {
                sink: [len(times), sum(each > 1 for each in times)]
                for sink, times in found.records.items()
            },
        }
        with args.state.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        total.add(figures)
        said = f"slice {total.slices}: {total.sentence()}. {total.ledger()}"
        print(said, file=sys.stderr, flush=True)
    print(f"{total.sentence()}. Failures: {dict(total.failures)}. {total.conditions}")
    print(total.ledger())
    return problems


def resume(state: Path, conditions: Mapping[str, Any]) -> LongRun:
    """Return the sum of the slices in a file, which is begun if it is not there.

    Raises:
        ConditionsError: they were measured under other conditions.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    text = state.read_text(encoding="utf-8") if state.exists() else ""
    whole = text[: text.rfind("\n") + 1] or json.dumps(conditions) + "\n"
    temporary = state.with_suffix(".new")
    temporary.write_text(whole, encoding="utf-8")
    temporary.replace(state)
    total = LongRun.load_from(state)
    check_conditions(total.conditions, conditions)
    return total
