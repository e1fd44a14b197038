"""A long run of `litellm-resilience`, in slices: how many of how many requests fail at most.

Each slice starts a proxy, loads it, and adds a line to the state file; the same command later goes
on from there. It ends when there have been enough requests and enough recycles.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cell import measure
from benchmarks.commands import add_limit, add_number, of_interpreter, positive
from benchmarks.report import Machine, Outcome
from benchmarks.results import DIRECTORY, LONG_RUN, LongRun
from benchmarks.setups import KINDS, Cell, Load
from benchmarks.store import ConditionsError, check_conditions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from benchmarks.results import Measurement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add_number(parser, "--requests", 100_000, "at least")
    add_number(parser, "--recycles", 300, "at least")
    add(
        "--state",
        type=Path,
        default=DIRECTORY / LONG_RUN,
        help=f"file of the slices so far (default: {LONG_RUN} beside the results)",
    )
    add("--fresh", action="store_true", help="forget the slices so far")
    add_number(parser, "--workers", 2)
    add_limit(parser, limit=250, jitter=100)
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="in turns (default: both)")
    add_number(parser, "--slice_seconds", 240.0)
    add("--max_slices", type=positive(int), help="end after so many now; go on another time")


def run(args: argparse.Namespace) -> Outcome:
    """Add slices until there is enough.

    Raises:
        SystemExit: with status 2 if earlier slices were measured under other conditions.
    """
    machine = Machine.here()
    conditions = {
        "workers": args.workers,
        "limit": args.limit,
        "jitter": args.jitter,
        "kinds": " ".join(args.kinds),
        "python": machine.python,
        "processor": f"{machine.cores} x {machine.processor}",
        **machine.versions,
    }
    if args.fresh:
        args.state.unlink(missing_ok=True)
    try:
        total = resume(args.state, conditions)
    except ConditionsError as error:
        print(f"{args.state}: {error}; --fresh starts anew", file=sys.stderr)
        raise SystemExit(2) from error
    load = Load(seconds=args.slice_seconds, limit=args.limit, jitter=args.jitter)
    command = of_interpreter(sys.executable)["resilient"]
    until = total.slices + (args.max_slices or sys.maxsize)
    problems: list[str] = []
    while total.slices < until and (
        total.requests.total() < args.requests or total.recycles < args.recycles
    ):
        kind = args.kinds[total.slices % len(args.kinds)]
        cell = Cell(total.conditions["litellm"], workers=args.workers, kinds=(kind,))
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        found = measure(command, load.options("resilient"), cell, load, python=sys.executable)
        if kind not in found.loads:
            problems.append(found.problem)
            break
        figures = _slice(kind, began, found)
        with args.state.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        total.add(figures)
        print(f"slice {total.slices}: {total.sentence()}", file=sys.stderr, flush=True)
    return outcome(total, problems)


def _slice(kind: str, began: str, found: Measurement) -> dict[str, Any]:
    seen = found.loads[kind]
    return {
        "kind": kind,
        "began": began,
        "requests": seen.requests,
        "failures": seen.failures,
        "recycles": len(seen.recycles),
        "seconds": seen.seconds,
    }


def outcome(total: LongRun, problems: list[str]) -> Outcome:
    """Return what all slices say together."""
    values = {**asdict(total), "bound": total.bound, "problems": problems}
    conditions = ", ".join(f"{name} {value}" for name, value in total.conditions.items())
    failures = f"Failures: {dict(total.failures)}." if total.failures else ""
    paragraphs = ["### Long run", f"{total.sentence()}.", f"{conditions}.", failures]
    return Outcome(values, paragraphs, problems)


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
