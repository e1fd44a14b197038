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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import environments, picture, readme
from benchmarks.cell import measure
from benchmarks.commands import add_limit, add_number, checkout_environment, of_interpreter
from benchmarks.fronts import executable
from benchmarks.report import Machine, Outcome, order
from benchmarks.results import DIRECTORY, LONG_RUN, Measurement, Results
from benchmarks.setups import ENTRIES, LINES, ROOT, STACKS, Load, cells
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
    chosen = cells(args.lines, args.only)
    if args.dry_run:
        for cell in chosen:
            _say(str(cell))
        raise SystemExit(0)
    try:
        evidence = _prepared(args, chosen, notes)
    except (environments.UnusableError, ConditionsError) as error:
        hint = "; --fresh starts anew" if isinstance(error, ConditionsError) else ""
        print(f"{error}{hint}", file=sys.stderr)
        raise SystemExit(2) from error
    usable = _usable(cells(tuple(evidence.lines), args.only), notes)
    for note in notes:
        _say(note)
    if "matrix" in args.parts:
        evidence.matrix(usable, args.rounds)
    if "session" in args.parts:
        evidence.session()
    if "cost" in args.parts:
        evidence.cost()
    results = evidence.results
    readme.write(results, args.output)
    page = readme.page(results, args.output / LONG_RUN)
    return Outcome(results.as_dict(), [page.rstrip()], results.problems)


def _usable(chosen: Sequence[Cell], notes: list[str]) -> list[Cell]:
    """The set-ups that can be measured here; the notes say what the others lack."""
    lacks = {
        cell: STACKS[cell.stack].missing
        + [cell.front] * (cell.front != "none" and executable(cell.front) is None)
        for cell in chosen
    }
    notes += [f"{cell}: left out without {', '.join(each)}" for cell, each in lacks.items() if each]
    return [cell for cell, missing in lacks.items() if not missing]


def _prepared(args: argparse.Namespace, chosen: Sequence[Cell], notes: list[str]) -> _Evidence:
    if not picture.possible():
        notes.append("no picture: matplotlib is not installed (extra `plot`)")
    stacks = dict.fromkeys(cell.stack for cell in chosen)
    packages = [package for name in stacks for package in STACKS[name].packages]
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
