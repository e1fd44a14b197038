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

from benchmarks import environments, picture, tables
from benchmarks.cell import Load, Measurement, measure
from benchmarks.commands import ENTRIES, ROOT, checkout_environment, of_interpreter
from benchmarks.fronts import executable
from benchmarks.long import RESULTS, STATE
from benchmarks.matrix import CLIENTS, FRONTS, KINDS, LINES, SERVERS, WORKERS, Selection
from benchmarks.report import Machine, order, positive
from benchmarks.results import Results
from benchmarks.store import ConditionsError, Store, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.environments import Environment
    from benchmarks.matrix import Cell

PARTS = ("matrix", "session", "cost")
STORM_LINES = ("1.81.12",)
HANG_UP_LINES = ("1.79.3", "1.81.12", "1.106.2")
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
    add(
        "--lines",
        nargs="+",
        default=LINES,
        metavar="VERSION",
        help=f"LiteLLM versions, or `{environments.INSTALLED}` for the one that is installed "
        f"(default: {' '.join(LINES)})",
    )
    add("--servers", nargs="+", choices=SERVERS, default=SERVERS, help="default: both")
    add(
        "--workers",
        nargs="+",
        type=positive(int),
        default=WORKERS,
        metavar="N",
        help="default: 1 2 4",
    )
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of load (default: both)")
    add("--clients_kind", nargs="+", choices=CLIENTS, default=CLIENTS, help="default: both")
    add(
        "--fronts",
        nargs="+",
        choices=FRONTS,
        help="reverse proxies (default: all that are installed)",
    )
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
    add("--rounds", type=positive(int), default=1, help="of the matrix (default: 1)")
    add(
        "--seconds",
        type=positive(float),
        default=default.seconds,
        help=f"length of each load (default: {default.seconds:g})",
    )
    add(
        "--limit",
        type=positive(int),
        default=default.limit,
        help=f"requests per worker (default: {default.limit})",
    )
    add(
        "--jitter",
        type=int,
        default=default.jitter,
        help=f"and so many more at most, on our side (default: {default.jitter})",
    )
    add(
        "--output",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="for results.json, results.md and benchmark.svg (default: benchmarks/results)",
    )
    add("--fresh", action="store_true", help="forget what an earlier run has measured there")
    add(
        "--cache",
        type=Path,
        default=environments.default_cache(),
        metavar="DIR",
        help="for LiteLLM's environments (default: %(default)s)",
    )
    add(
        "--python",
        action="append",
        type=_given,
        default=[],
        metavar="VERSION=PATH",
        help="an interpreter that has this LiteLLM already; may be repeated",
    )
    add("--dry-run", action="store_true", help="only say what would be measured")


def _given(text: str) -> tuple[str, Path]:
    line, equals, path = text.partition("=")
    if not equals or not Path(path).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is not VERSION=PATH of an interpreter")
    return line, Path(path)


def run(args: argparse.Namespace) -> Results:
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
        if not picture.possible():
            notes.append("no picture: matplotlib is not installed (extra `plot`)")
        prepared = [
            environments.prepare(line, args.cache, dict(args.python)) for line in args.lines
        ]
        lines = {environment.line: environment for environment in prepared}
        machine = Machine.here()
        load = Load(
            seconds=args.seconds,
            limit=args.limit,
            jitter=args.jitter,
            plain_entry=args.plain_entry,
        )
        store = Store(args.output / "parts", _conditions(machine, load, lines), fresh=args.fresh)
    except (environments.UnusableError, ConditionsError) as error:
        hint = "; --fresh starts anew" if isinstance(error, ConditionsError) else ""
        print(f"{error}{hint}", file=sys.stderr)
        raise SystemExit(2) from error
    for note in notes:
        print(note, file=sys.stderr)
    machine = Machine(**store.once("machine", lambda: asdict(machine)))
    results = Results(
        date=store.once("date", lambda: time.strftime("%Y-%m-%d")),
        machine=machine,
        load=load,
        versions={line: dict(environment.versions) for line, environment in lines.items()},
        notes=notes,
    )
    evidence = _Evidence(store, lines, load, results)
    if "matrix" in args.parts:
        evidence.matrix(replace(selection, lines=tuple(lines)).cells(), args.rounds)
    if "session" in args.parts:
        evidence.session()
    if "cost" in args.parts:
        evidence.cost()
    write(results, args.output)
    return results


def _selection(args: argparse.Namespace, notes: list[str]) -> Selection:
    fronts = args.fronts or FRONTS
    missing = [front for front in fronts if front != "none" and executable(front) is None]
    if missing and args.fronts:
        raise environments.UnusableError(f"not installed: {', '.join(missing)}")
    notes += [f"{front} is not installed: left out" for front in missing]
    return Selection(
        lines=args.lines,
        servers=args.servers,
        workers=args.workers,
        kinds=args.kinds,
        clients=args.clients_kind,
        fronts=[front for front in fronts if front not in missing],
        full=args.full,
    )


def _conditions(machine: Machine, load: Load, lines: Mapping[str, Environment]) -> dict[str, Any]:
    return {
        **asdict(load),
        "processor": f"{machine.cores} x {machine.processor}",
        "litellm-resilience": machine.versions["litellm-resilience"],
        **{f"LiteLLM {line}": dict(each.versions) for line, each in lines.items()},
    }


def write(results: Results, directory: Path) -> None:
    """Write the results as JSON, as Markdown and as a picture, as far as there is one."""
    write_json(directory / "results.json", results.as_dict())
    text = tables.page(results, directory / STATE)
    (directory / "results.md").write_text(text, encoding="utf-8")
    if picture.possible():
        picture.save(results, directory / "benchmark.svg")


class _Evidence:
    def __init__(
        self, store: Store, lines: Mapping[str, Environment], load: Load, results: Results
    ) -> None:
        self._store = store
        self._lines = lines
        self._load = load
        self._results = results
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
            self._results.add(cell, found)

    def _measured(self, cell: Cell, side: str, turn: int, progress: str) -> Measurement:
        environment = self._lines[cell.line]

        def now() -> dict[str, Any]:
            print(progress, file=sys.stderr, flush=True)
            if cell.line not in self._warm:
                environments.warm(environment)
                self._warm.add(cell.line)
            found = measure(
                of_interpreter(environment.python, self._load.plain_entry)[side],
                self._load.options(side),
                cell,
                self._load,
                python=environment.python,
            )
            for kind, seen in found.loads.items():
                print(
                    f"  {kind}: {seen.failed} of {seen.requests} failed, "
                    f"{len(seen.recycles)} recycled",
                    file=sys.stderr,
                    flush=True,
                )
            return found.as_json()

        try:
            return Measurement.from_json(self._store.once(f"{cell.key}-{side}-{turn}", now))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            # Not stored: the next run tries again.
            self._results.problems.append(f"{cell}, {side}: {error}")
            return Measurement(problem=str(error))

    def session(self) -> None:
        """Measure what becomes of the shared session."""
        for scenario, lines in (("storm", STORM_LINES), ("hang_ups", HANG_UP_LINES)):
            for line in lines:
                found = self._part(line, "session", ("--scenarios", scenario))
                if found is not None:
                    of_line = self._results.session.setdefault(scenario, {})
                    of_line[line] = found["found"][scenario]

    def cost(self) -> None:
        """Measure what the patches cost per request."""
        lines = [line for line in COST_LINES if line in self._lines] or list(self._lines)[:1]
        for name, options in COST.items():
            for line in lines:
                found = self._part(line, name, options)
                if found is not None:
                    self._results.cost.setdefault(name, {})[line] = found

    def _part(self, line: str, name: str, options: Sequence[str]) -> dict[str, Any] | None:
        """Run a subcommand in the line's interpreter; None without one, or if it fails."""
        if line not in self._lines:
            return None

        def now() -> dict[str, Any]:
            print(f"{name}, {line}", file=sys.stderr, flush=True)
            finished = subprocess.run(
                [str(self._lines[line].python), "-m", "benchmarks", name, "--json", *options],
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
            self._results.problems.append(f"{name}, {line}: printed no result")
            return None
        self._results.problems += [f"{name}, {line}: {problem}" for problem in found["problems"]]
        return found
