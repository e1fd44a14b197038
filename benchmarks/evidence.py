"""The whole evidence in one go: every figure that the README shows.

Plain `litellm` and `litellm-resilience` in turns, on several lines of LiteLLM, servers and numbers
of workers, for JSON and for streams; with the `openai` client, and behind nginx and HAProxy; then
the shared session, and what it costs. Each measurement is stored at once: the same command goes on
after an interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import environments, picture, readme, tables
from benchmarks.cell import measure
from benchmarks.commands import ROOT, add_limit, add_number, checkout_environment, of_interpreter
from benchmarks.fronts import executable
from benchmarks.report import Machine, Outcome, order
from benchmarks.results import DIRECTORY, LONG_RUN, Measurement, Results
from benchmarks.setups import (
    CLIENTS,
    ENTRIES,
    FRONTS,
    KINDS,
    LINES,
    SERVERS,
    STACKS,
    WORKERS,
    Load,
    Selection,
)
from benchmarks.store import ConditionsError, Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.environments import Environment
    from benchmarks.setups import Cell

PARTS = ("matrix", "session", "cost")
SESSION_LINES = {"storm": ("1.81.12",), "hang_ups": ("1.79.3", "1.81.12", "1.106.2")}
"""The lines that show what becomes of the shared session, by scenario."""
COST_LINES = ("1.81.12", "1.109.1")
COST = {
    "attach": ("--rounds", "100"),
    "throughput": ("--starts", "6", "--rounds", "20"),
}
"""Benchmarks of what it costs, with their options."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    default = Load()
    add = parser.add_argument
    lines = (
        f"LiteLLM versions, or `{environments.INSTALLED}` for the one that is installed "
        f"(default: {' '.join(LINES)})"
    )
    add("--lines", nargs="+", default=LINES, metavar="VERSION", help=lines)
    add("--servers", nargs="+", choices=SERVERS, default=SERVERS, help="default: both")
    add("--workers", nargs="+", type=int, default=WORKERS, metavar="N", help="default: 1 2 4")
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of load (default: both)")
    add("--clients_kind", nargs="+", choices=CLIENTS, default=CLIENTS, help="default: both")
    fronts = "reverse proxies (default: all that are installed)"
    add("--fronts", nargs="+", choices=FRONTS, help=fronts)
    add(
        "--plain_entry",
        choices=ENTRIES,
        default=ENTRIES[0],
        help="start plain litellm by its script as users do, or by the function behind it: on a "
        "busy machine uvicorn kills workers that import the script (default: script)",
    )
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    add(
        "--full",
        action="store_true",
        help="the whole product of all these for each line (default: each line with 2 workers, "
        "one line with everything, its clients and reverse proxies with 2 workers)",
    )
    add_number(parser, "--rounds", 1, "of the matrix")
    add_number(parser, "--seconds", default.seconds, "length of each load")
    add_limit(parser, default.limit, default.jitter)
    output = "for results.json, results.md and benchmark.svg (default: benchmarks/results)"
    add("--output", type=Path, default=DIRECTORY, metavar="DIR", help=output)
    add("--fresh", action="store_true", help="forget what an earlier run has measured there")
    cache = "for LiteLLM's environments (default: %(default)s)"
    add("--cache", type=Path, default=environments.default_cache(), metavar="DIR", help=cache)
    python = "an interpreter that has this LiteLLM already; may be repeated"
    add("--python", action="append", type=_given, default=[], metavar="VERSION=PATH", help=python)
    add("--dry-run", action="store_true", help="only say what would be measured")


def _given(text: str) -> tuple[str, Path]:
    line, equals, path = text.partition("=")
    if not equals or not Path(path).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is not VERSION=PATH of an interpreter")
    return line, Path(path)


def run(args: argparse.Namespace) -> Outcome:
    """Measure what is not measured yet, and write the results.

    Raises:
        SystemExit: with status 2, before anything is measured, if something needed is missing.
    """
    notes: list[str] = []
    try:
        selection = _selection(args, notes)
        if args.dry_run:
            for cell in selection.cells():
                print(cell, file=sys.stderr)
            raise SystemExit(0)
        evidence = _prepared(args, selection, notes)
    except (environments.UnusableError, ConditionsError) as error:
        hint = "; --fresh starts anew" if isinstance(error, ConditionsError) else ""
        print(f"{error}{hint}", file=sys.stderr)
        raise SystemExit(2) from error
    for note in notes:
        print(note, file=sys.stderr)
    if "matrix" in args.parts:
        lines = tuple(evidence.lines)
        evidence.matrix(replace(selection, lines=lines).cells(), args.rounds)
    if "session" in args.parts:
        evidence.session()
    if "cost" in args.parts:
        evidence.cost()
    results = evidence.results
    readme.write(results, args.output)
    page = tables.page(results, args.output / LONG_RUN)
    return Outcome(results.as_dict(), [page.rstrip()], results.problems)


def _selection(args: argparse.Namespace, notes: list[str]) -> Selection:
    fronts = args.fronts or FRONTS
    missing = [front for front in fronts if front != "none" and executable(front) is None]
    if missing and args.fronts:
        raise environments.UnusableError(f"not installed: {', '.join(missing)}")
    notes += [f"{front} is not installed: left out" for front in missing]
    stacks = {name: stack.missing for name, stack in STACKS.items()}
    notes += [
        f"{name} needs {', '.join(needs)}: left out" for name, needs in stacks.items() if needs
    ]
    return Selection(
        lines=args.lines,
        servers=args.servers,
        workers=args.workers,
        kinds=args.kinds,
        clients=args.clients_kind,
        fronts=[front for front in fronts if front not in missing],
        stacks=[name for name, needs in stacks.items() if not needs],
        full=args.full,
    )


def _prepared(args: argparse.Namespace, selection: Selection, notes: list[str]) -> _Evidence:
    if not picture.possible():
        notes.append("no picture: matplotlib is not installed (extra `plot`)")
    packages = [each for name in selection.stacks for each in STACKS[name].packages]
    prepared = [
        environments.prepare(line, args.cache, dict(args.python), packages) for line in args.lines
    ]
    lines = {environment.line: environment for environment in prepared}
    versions = {line: dict(environment.versions) for line, environment in lines.items()}
    load = Load(
        seconds=args.seconds, limit=args.limit, jitter=args.jitter, plain_entry=args.plain_entry
    )
    machine = Machine.here()
    conditions = {
        **asdict(load),
        "processor": f"{machine.cores} x {machine.processor}",
        "litellm-resilience": machine.versions["litellm-resilience"],
        **{f"LiteLLM {line}": each for line, each in versions.items()},
    }
    store = Store(args.output / "parts", conditions, fresh=args.fresh)
    results = Results(
        date=store.once("date", lambda: time.strftime("%Y-%m-%d")),
        machine=Machine(**store.once("machine", lambda: asdict(machine))),
        load=load,
        versions=versions,
        notes=notes,
    )
    return _Evidence(store, lines, results)


class _Evidence:
    def __init__(self, store: Store, lines: Mapping[str, Environment], results: Results) -> None:
        self.lines = lines
        self.results = results
        self._store = store
        self._warm: set[str] = set()

    def matrix(self, cells: Sequence[Cell], rounds: int) -> None:
        """Measure each set-up on both sides, in turns."""
        total = len(cells) * rounds
        for number in range(total):
            turn, index = divmod(number, len(cells))
            cell = cells[index]
            found: dict[str, Measurement] = {}
            for side in order(index + turn):
                progress = f"{number + 1} of {total}: {cell}, {side}"
                found[side] = self._measured(cell, side, turn, progress)
            self.results.add(cell, found)

    def _measured(self, cell: Cell, side: str, turn: int, progress: str) -> Measurement:
        environment, load = self.lines[cell.line], self.results.load

        def now() -> dict[str, Any]:
            _say(progress)
            if cell.line not in self._warm:
                environments.warm(environment)
                self._warm.add(cell.line)
            command = of_interpreter(environment.python, load.plain_entry)[side]
            found = measure(command, load.options(side), cell, load, python=environment.python)
            for kind, seen in found.loads.items():
                failed = f"{seen.failed} of {seen.requests} failed"
                _say(f"  {kind}: {failed}, {len(seen.recycles)} recycled")
            return asdict(found)

        try:
            return Measurement.from_json(self._store.once(f"{cell.key}-{side}-{turn}", now))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            # Not stored: the next run tries again.
            self.results.problems.append(f"{cell}, {side}: {error}")
            return Measurement(problem=str(error))

    def session(self) -> None:
        """Measure what becomes of the shared session."""
        for scenario, lines in SESSION_LINES.items():
            for line in filter(self.lines.__contains__, lines):
                found = self._part(line, "session", ("--scenarios", scenario))
                if found is not None:
                    of_line = self.results.session.setdefault(scenario, {})
                    of_line[line] = found["found"][scenario]

    def cost(self) -> None:
        """Measure what the patches cost per request."""
        lines = [line for line in COST_LINES if line in self.lines] or list(self.lines)[:1]
        for name, options in COST.items():
            for line in lines:
                found = self._part(line, name, options)
                if found is not None:
                    self.results.cost.setdefault(name, {})[line] = found

    def _part(self, line: str, name: str, options: Sequence[str]) -> dict[str, Any] | None:
        """Run a subcommand in the line's interpreter; None if it fails."""

        def now() -> dict[str, Any]:
            _say(f"{name}, {line}")
            finished = subprocess.run(
                [str(self.lines[line].python), "-m", "benchmarks", name, "--json", *options],
                stdout=subprocess.PIPE,
                text=True,
                check=False,
                cwd=ROOT,
                env={**os.environ, **checkout_environment()},
            )
            outcome: dict[str, Any] = json.loads(finished.stdout)
            for result in outcome.get("results", ()):
                del result["rounds"]
            return outcome

        arguments = "-".join(text.removeprefix("--") for text in options)
        try:
            found: dict[str, Any] = self._store.once(f"{line}-{name}-{arguments}", now)
        except ValueError:
            self.results.problems.append(f"{name}, {line}: printed no result")
            return None
        self.results.problems += [f"{name}, {line}: {problem}" for problem in found["problems"]]
        return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
