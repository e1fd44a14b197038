"""The whole evidence in one go: every figure that README and docs/benchmarks.md show.

Plain `litellm` and `litellm-resilience` in turns: with PostgreSQL, Redis and telemetry; on several
lines of LiteLLM, servers and numbers of workers; with the `openai` client, nginx and HAProxy; each
for JSON and for streams. Then the shared session, how even the load is, what holds a pod within
bounds, and what it costs. Each measurement is stored at once: the same command goes on after an
interruption.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import balance, bounds, interpreters, picture, readme, stacks
from benchmarks.commands import add_number
from benchmarks.fronts import executable
from benchmarks.part import measured
from benchmarks.report import Machine, commit, order
from benchmarks.results import DIRECTORY, LONG_RUN, Measurement, Results
from benchmarks.setups import BARE, ENTRIES, LINES, MAIN_LINE, Load, cells
from benchmarks.store import ConditionsError, Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.setups import Cell

PARTS = ("matrix", "session", "balance", "bounds", "cost")
SESSION_LINES = {"storm": ("1.81.12",), "hang_ups": ("1.79.3", "1.81.12", "1.106.2")}
"""The lines that show what becomes of the shared session, by scenario."""
COST_LINES = ("1.81.12", "1.109.1")
BALANCE_LINES = (MAIN_LINE,)
"""Where it is measured how even the load is, and what holds a pod within bounds."""
COSTS = ("attach", "throughput")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    lines = (
        f"LiteLLM versions, or `{interpreters.INSTALLED}` for the one that is installed "
        f"(default: {' '.join(LINES)})"
    )
    add("--lines", nargs="+", default=LINES, metavar="VERSION", help=lines)
    only = "set-ups whose words contain one of these texts, as --dry-run shows them (default: all)"
    add("--only", nargs="+", default=(), metavar="TEXT", help=only)
    add(
        "--plain_entry",
        choices=ENTRIES,
        default=ENTRIES[0],
        help="start plain litellm by its script as users do, or by the function behind it: on a "
        "busy machine uvicorn kills workers that import the script (default: script)",
    )
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    add_number(parser, "--rounds", 1, "of the matrix")
    add_number(parser, "--seconds", Load.seconds, "length of each load")
    output = "for results.json, results.md and benchmark.svg (default: benchmarks/results)"
    add("--output", type=Path, default=DIRECTORY, metavar="DIR", help=output)
    add("--fresh", action="store_true", help="forget what an earlier run has measured there")
    python = "an interpreter that has this LiteLLM already; may be repeated"
    add("--python", action="append", type=_given, default=[], metavar="VERSION=PATH", help=python)
    add("--dry-run", action="store_true", help="only say what would be measured")


def _given(text: str) -> tuple[str, Path]:
    line, equals, path = text.partition("=")
    if not equals or not Path(path).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is not VERSION=PATH of an interpreter")
    return line, Path(path)


def run(args: argparse.Namespace) -> Sequence[str]:
    """Measure what is not measured yet, write the results, and print them.

    Returns:
        What was not as intended.

    Raises:
        SystemExit: with status 2, before anything is measured, if something needed is missing.
    """
    notes: list[str] = []
    chosen = cells(args.lines, args.only)
    if args.dry_run:
        print(*chosen, sep="\n")
        return ()
    try:
        evidence = _prepared(args, chosen, notes)
    except (interpreters.UnusableError, ConditionsError) as error:
        hint = "; --fresh starts anew" if isinstance(error, ConditionsError) else ""
        print(f"{error}{hint}", file=sys.stderr)
        raise SystemExit(2) from error
    usable = _usable(cells(tuple(evidence.pythons), args.only), notes)
    for note in notes:
        print(note, file=sys.stderr)
    if "matrix" in args.parts:
        evidence.matrix(usable, args.rounds)
    if "session" in args.parts:
        evidence.session()
    if "balance" in args.parts:
        evidence.balance()
    if "bounds" in args.parts:
        evidence.bounds()
    if "cost" in args.parts:
        evidence.cost()
    results = evidence.results
    readme.write(results, args.output)
    print(readme.page(results, args.output / LONG_RUN).rstrip())
    return results.problems


def _usable(chosen: Sequence[Cell], notes: list[str]) -> list[Cell]:
    """The set-ups that can be measured here; the notes say what the others lack."""
    lacks = {
        cell: stacks.missing(cell.stack)
        + [cell.front] * (cell.front != "none" and executable(cell.front) is None)
        for cell in chosen
    }
    notes += [f"{cell}: left out without {', '.join(each)}" for cell, each in lacks.items() if each]
    return [cell for cell, missing in lacks.items() if not missing]


def _prepared(args: argparse.Namespace, chosen: Sequence[Cell], notes: list[str]) -> _Evidence:
    if not picture.possible():
        notes.append("no picture: matplotlib is not installed (extra `plot`)")
    production = {cell.line for cell in chosen if cell.stack != BARE}
    given = dict(args.python)
    prepared = [
        interpreters.prepare(line, given, production=line in production) for line in args.lines
    ]
    pythons = {str(versions["litellm"]): python for python, versions in prepared}
    load = Load(seconds=args.seconds, plain_entry=args.plain_entry, plain_jitter=True)
    results = Results(
        date=time.strftime("%Y-%m-%d"),
        machine=Machine.here(),
        load=load,
        versions={str(versions["litellm"]): versions for _, versions in prepared},
        notes=notes,
        commit=commit(),
    )
    conditions = {
        **asdict(load),
        "processor": f"{results.machine.cores} x {results.machine.processor}",
        "litellm-resilience": results.machine.versions["litellm-resilience"],
        **{f"LiteLLM {line}": versions for line, versions in results.versions.items()},
    }
    store = Store(args.output / "parts", conditions, fresh=args.fresh)
    results.date = store.once("date", lambda: results.date)
    return _Evidence(store, pythons, results)


class _Evidence:
    def __init__(self, store: Store, pythons: Mapping[str, Path], results: Results) -> None:
        self.pythons = pythons
        self.results = results
        self._store = store

    def matrix(self, cells: Sequence[Cell], rounds: int) -> None:
        """Measure each set-up on both sides, in turns."""
        load = asdict(self.results.load)
        for turn in range(rounds):
            for number, cell in enumerate(cells):
                print(f"{number + 1} of {len(cells)}: {cell}", file=sys.stderr, flush=True)
                for side in order(number + turn):
                    key = f"{cell.key}-{side}-{turn}"
                    wanted = {"cell": cell.as_json(), "side": side, "load": load}
                    found = self._part(key, cell.line, "cell", **wanted)
                    found = found or {"problem": "it was not measured"}
                    self.results.add(cell, side, Measurement.from_json(found))

    def session(self) -> None:
        """Measure what becomes of the shared session."""
        for scenario, lines in SESSION_LINES.items():
            for line in filter(self.pythons.__contains__, lines):
                self._scenario(self.results.session, scenario, line, "session")

    def bounds(self) -> None:
        """Measure what memory and draining workers come to."""
        for scenario in bounds.SCENARIOS:
            if scenario == "memory" and not bounds.limitable():
                self.results.notes.append("no memory limit: no group of processes can be made here")
                continue
            for line in self._lines(BALANCE_LINES):
                self._scenario(self.results.bounds, scenario, line, "bounds")

    def balance(self) -> None:
        """Measure how evenly workers are loaded."""
        for line in self._lines(BALANCE_LINES):
            for scenario in balance.SCENARIOS:
                key = f"{line}-balance-{scenario}"
                found = self._part(key, line, "balance", scenario=scenario)
                self._compare(self.results.balance, scenario, line, found)

    def cost(self) -> None:
        """Measure what the patches cost per request."""
        for name in COSTS:
            for line in self._lines(COST_LINES):
                found = self._part(f"{line}-{name}", line, name)
                self._compare(self.results.cost, name, line, found)

    def _scenario(self, kept: dict[str, Any], scenario: str, line: str, name: str) -> None:
        """Measure a scenario of a module, both sides after each other."""
        found = self._part(f"{line}-{scenario}", line, name, scenario=scenario)
        if found is not None:
            kept.setdefault(scenario, {})[line] = found

    def _lines(self, wanted: Sequence[str]) -> Sequence[str]:
        """Those of the lines that are measured, or another one."""
        return [line for line in wanted if line in self.pythons] or list(self.pythons)[:1]

    def _compare(self, kept: dict[str, dict[str, Any]], name: str, line: str, found: Any) -> None:
        if found is not None:
            kept.setdefault(name, {})[line] = found
            self.results.problems += (f"{name}, {line}: {p}" for p in found["problems"])

    def _part(self, key: str, line: str, name: str, **arguments: Any) -> Any:
        """What was measured in the line's interpreter; None, not stored, if that fails."""
        try:
            return self._store.once(key, lambda: measured(self.pythons[line], name, **arguments))
        except RuntimeError as error:
            self.results.problems.append(f"{key}: {error}")
            return None
