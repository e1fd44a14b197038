"""A long run of `litellm-resilience`, in slices: how many of how many requests fail at most.

Each slice starts a proxy, loads it, and adds a line to the state file; the same command later goes
on from there. It ends when there have been enough requests and enough recycles.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bound import upper_bound
from benchmarks.cell import Load, measure
from benchmarks.commands import add_recycling, of_interpreter
from benchmarks.matrix import KINDS, Cell
from benchmarks.report import Machine, positive
from benchmarks.store import ConditionsError, check_conditions

if TYPE_CHECKING:
    import argparse

RESULTS = Path(__file__).with_name("results")
STATE = "long.jsonl"


@dataclass
class Total:
    """The sum of all slices.

    Attributes:
        conditions: of the run.
        slices: how many there were.
        requests: sent, by kind of load.
        failures: by kind of failure.
        recycles: of workers.
        seconds: of load.
        problems: what was not as intended.
    """

    conditions: dict[str, Any]
    slices: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    recycles: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def add(self, figures: dict[str, Any]) -> None:
        """Add a slice."""
        self.slices += 1
        self.requests[figures["kind"]] += figures["requests"]
        self.failures.update(figures["failures"])
        self.recycles += figures["recycles"]
        self.seconds += figures["seconds"]

    @property
    def bound(self) -> float:
        """The share of requests lost is below this, with 95 % confidence."""
        return upper_bound(self.failures.total(), self.requests.total())

    def sentence(self) -> str:
        """The outcome in one sentence."""
        number = self.requests.total()
        if not number:
            return "0 requests so far"
        kinds = " and ".join(
            f"{count:,} {'streams' if kind == 'stream' else 'JSON'}"
            for kind, count in self.requests.items()
        )
        failed = self.failures.total()
        rule = f"3 of {number:,}" if not failed else f"{self.bound * number:.1f} of {number:,}"
        return (
            f"{failed} of {number:,} requests failed ({kinds}) while workers were recycled "
            f"{self.recycles:,} times: a loss below {_percent(self.bound)} ({rule}) with 95 % "
            "confidence"
        )

    def as_json(self) -> str:
        """The outcome as JSON text."""
        values = {**asdict(self), "bound": self.bound if self.requests.total() else None}
        return json.dumps(values, indent=2)

    def as_markdown(self) -> str:
        """The outcome as a Markdown section."""
        notes = [f"{name} {value}" for name, value in self.conditions.items()]
        lines = ["### Long run", f"{self.sentence()}.", ", ".join(notes) + "."]
        if self.failures:
            lines.append(f"Failures: {dict(self.failures)}.")
        lines += [f"**Problem:** {problem}" for problem in self.problems]
        return "\n\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--requests", type=positive(int), default=100_000, help="at least (default: 100000)")
    add("--recycles", type=positive(int), default=300, help="at least (default: 300)")
    add(
        "--state",
        type=Path,
        default=RESULTS / STATE,
        help=f"file of the slices so far (default: {STATE} beside the results)",
    )
    add("--fresh", action="store_true", help="forget the slices so far")
    add_recycling(parser, limit=250, jitter=100)
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="in turns (default: both)")
    add("--slice_seconds", type=positive(float), default=240.0, help="default: 240")
    add("--max_slices", type=positive(int), help="end after so many now; go on another time")


def run(args: argparse.Namespace) -> Total:
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
    until = total.slices + (args.max_slices or sys.maxsize)
    while total.slices < until and (
        total.requests.total() < args.requests or total.recycles < args.recycles
    ):
        figures = _slice(args.kinds[total.slices % len(args.kinds)], args.workers, load, total)
        if figures is None:
            break
        _append(args.state, figures)
        total.add(figures)
        print(f"slice {total.slices}: {total.sentence()}", file=sys.stderr, flush=True)
    return total


def _slice(kind: str, workers: int, load: Load, total: Total) -> dict[str, Any] | None:
    cell = Cell(total.conditions["litellm"], workers=workers, kinds=(kind,))
    command = of_interpreter(sys.executable)["resilient"]
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    found = measure(command, load.options("resilient"), cell, load, python=sys.executable)
    seen = found.loads.get(kind)
    if seen is None:
        total.problems.append(found.problem)
        return None
    return {
        "kind": kind,
        "began": began,
        "requests": seen.requests,
        "failures": seen.failures,
        "recycles": len(seen.recycles),
        "seconds": seen.seconds,
    }


def resume(state: Path, conditions: dict[str, Any]) -> Total:
    """Return the sum of the slices in a file, which is begun if it is not there.

    Raises:
        ConditionsError: they were measured under other conditions.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    lines = _complete(state) or [json.dumps(conditions) + "\n"]
    temporary = state.with_suffix(".new")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(state)
    total = read(state)
    check_conditions(total.conditions, conditions)
    return total


def read(state: Path) -> Total:
    """Return the sum of the slices in a file."""
    conditions, *slices = (json.loads(line) for line in _complete(state))
    total = Total(conditions)
    for figures in slices:
        total.add(figures)
    return total


def _complete(state: Path) -> list[str]:
    """The lines of the file; an interruption may have left a part of one more."""
    if not state.exists():
        return []
    lines = state.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def _append(state: Path, values: dict[str, Any]) -> None:
    with state.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
