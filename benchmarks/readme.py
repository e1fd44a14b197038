"""Write the figures of the last whole run into the README and docs/benchmarks.md.

Both have regions between `<!-- benchmarks: NAME -->` and `<!-- end -->`; what is between them
is replaced by the figures of that name. The picture goes to `docs/benchmark.svg`. The page
with every figure is written anew too.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import picture
from benchmarks.report import table
from benchmarks.results import DIRECTORY, LONG_RUN, LONG_RUN_RECORDS, LongRun, Results
from benchmarks.setups import (
    BARE,
    ENTRIES,
    HEADLINES,
    PICTURED,
    ROOT,
    SIDES,
    STARTUP_SECONDS,
    TIMEOUT,
)
from benchmarks.store import write_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from benchmarks.results import Measurement, Seen, Sides
    from benchmarks.setups import Cell

    Column = Callable[[Sides], str]

PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
"""What shows figures."""
PICTURE = ROOT / "docs" / "benchmark.svg"
REGION = re.compile(
    r"(?P<start><!-- benchmarks: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)
WIDTH = 100
NOTHING = "-"
NEVER_UP = f"not in {STARTUP_SECONDS:g} s"
NOT_REPLACED = "none"
COMMANDS = {"plain": "plain `litellm`", "resilient": "`litellm-resilience`"}
COSTS_SHOWN = (
    "attach",
    "contended: 50 requests at once",
    "contended: 50 requests at once, session dead",
    "requests per second",
)
"""The costs that are shown; the page with every figure has more."""
DRAINING = {"streams": "streams of 90 s", "idle": "connections idle for 60 s"}
"""What workers drain for, by scenario."""
WORDS = {1: "one worker", 2: "two workers", 4: "four workers"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--results", type=Path, default=DIRECTORY, metavar="DIR")


def run(args: argparse.Namespace) -> Sequence[str]:
    """Rewrite the regions, the page with every figure, and the picture.

    Returns:
        Regions that there are no figures for.

    Raises:
        OSError: there was no run.
    """
    results = Results.load_from(args.results / "results.json")
    figures = fragments(results, args.results / LONG_RUN)
    write(results, args.results)
    wanted = []
    for shown in PAGES:
        text = shown.read_text(encoding="utf-8")
        shown.write_text(rewritten(text, figures), encoding="utf-8")
        wanted += regions(text)
    drawn = args.results / PICTURE.name
    if drawn.exists():
        shutil.copyfile(drawn, PICTURE)
    return [f"no figures for {name}" for name in wanted if name not in figures]


def write(results: Results, directory: Path) -> None:
    """Write the results as JSON, as Markdown and as a picture, as far as there is one."""
    write_json(directory / "results.json", results.as_dict())
    text = page(results, directory / LONG_RUN)
    (directory / "results.md").write_text(text, encoding="utf-8")
    if picture.possible():
        picture.save(results, directory / PICTURE.name)


def regions(text: str) -> list[str]:
    """The names of a text's regions, in order."""
    return [found["name"] for found in REGION.finditer(text)]


def rewritten(text: str, figures: Mapping[str, str]) -> str:
    """A text with its regions replaced; those without figures stay."""

    def replace(found: re.Match[str]) -> str:
        figure = figures.get(found["name"])
        return found[0] if figure is None else f"{found['start']}{figure}\n{found['end']}"

    return REGION.sub(replace, text)


def page(results: Results, long_run: Path | None = None) -> str:
    """Everything, as a page.

    Args:
        results: of the whole run.
        long_run: file of the long run, shown if it is there.
    """
    parts = ["# Benchmark results"]
    for name, text in fragments(results, long_run).items():
        parts += [f"## {name.replace('-', ' ').capitalize()}", text]
    details = [_details(results, kind) for kind in ("json", "stream")]
    if any(details):
        parts += ["## Details", "Each cell: plain `litellm` → `litellm-resilience`.", *details]
    parts += ["## All costs", _compared(results.cost)] if results.cost else []
    parts += [f"**Note:** {note}." for note in [*results.notes, *_ends(results)]]
    parts += [f"**Problem:** {problem}" for problem in results.problems]
    return "\n\n".join(filter(None, parts)) + "\n"


def fragments(results: Results, long_run: Path | None = None) -> dict[str, str]:
    """What is shown, by the name of its region; only what was measured."""
    found = {
        "headline": _headline(results),
        "recycling": _recycling(results),
        "picture": _pictured(results),
        "fronts": _fronts(results),
        "storm": _storm(results),
        "hang-ups": _hang_ups(results),
        "even-load": _even_load(results),
        "memory": _memory_bound(results),
        "draining": _draining_bound(results),
        "cost": _compared(results.cost, COSTS_SHOWN),
        "long-run": _long_run(long_run),
        "long-run-records": _long_run(long_run and long_run.with_name(LONG_RUN_RECORDS)),
        "machine": _machine(results),
    }
    return {name: text for name, text in found.items() if text}


def _headline(results: Results) -> str:
    """The few set-ups that the README shows."""
    chosen = [
        (f"{size}, {cell.stack}" if cell.stack != BARE else size, results.cells[cell])
        for size, cell in HEADLINES.items()
        if cell in results.cells
    ]
    columns = {name: COLUMNS[name] for name in HEADLINE_COLUMNS}
    return _table("LiteLLM " + next(iter(HEADLINES.values())).line, chosen, columns)


def _recycling(results: Results) -> str:
    load = results.load
    jitter = (
        f"both with a jitter of {load.jitter} where LiteLLM has one (1.90 and later)"
        if load.plain_jitter
        else f"`litellm-resilience` with a jitter of {load.jitter}, plain `litellm` with none"
    )
    about = (
        f"Limit {load.limit}, {jitter}. {load.clients} keep-alive clients send requests without "
        f"retries for {load.seconds:g} s, then {load.stream_clients} clients send streams of "
        f"{load.stream_seconds:g} s for as long. Each cell: plain `litellm` → "
        "`litellm-resilience`. Requests still open when the load ends get up to "
        f"{TIMEOUT:g} s more; those seconds count as seconds without a reply too. "
        f"*{NOT_REPLACED.capitalize()}*: no replacement was ready before the load ended."
    )
    if load.plain_entry != ENTRIES[0]:
        about += " Plain `litellm` is started by its function here, not by its script."
    rows = []
    for cell, sides in _shown(results):
        if cell.way == "direct":
            server = f"{cell.server} {results.versions[cell.line][cell.server]}"
            workers = WORDS.get(cell.workers, f"{cell.workers} workers")
            stack = () if cell.stack == BARE else (cell.stack,)
            rows.append((", ".join((cell.line, server, workers, *stack)), sides))
    made = _table("LiteLLM, server, workers", rows, COLUMNS)
    return f"{_wrapped(about)}\n\n{made}" if rows else ""


def _pictured(results: Results) -> str:
    """The figures of the picture."""
    columns = {
        "failed requests": _of(PICTURED, _lost),
        "seconds without a reply": _of(PICTURED, _silence),
        "workers that left": _of(PICTURED, _recycles),
    }
    rows = [(str(cell), sides) for cell, sides in results.cells.items() if PICTURED in cell.kinds]
    return _table("In the picture: LiteLLM", rows, columns) if rows else ""


def _fronts(results: Results) -> str:
    gateways = "of these 502, 503, 504"
    header = ("Clients", "failed requests", gateways, "failed streams", gateways)
    shown = [(cell, sides) for cell, sides in _shown(results) if cell.stack == BARE]
    compared = {_size(cell) for cell, _ in shown if cell.way != "direct"}
    rows = []
    for cell, sides in shown:
        if _size(cell) in compared:
            way = "straight to the proxy" if cell.way == "direct" else cell.way
            columns = [f"{way}, {cell.line}"]
            for kind in ("json", "stream"):
                errors = _of(kind, _gateway)(sides) if cell.front != "none" else NOTHING
                columns += [_of(kind, _lost)(sides), errors]
            rows.append(columns)
    return table(header, rows)


def _storm(results: Results) -> str:
    header = ("", "failed requests", "requests on the shared session", "upstream connections")
    rows = []
    for line, sides in results.session.get("storm", {}).items():
        for side, command in COMMANDS.items():
            one = sides[side]
            failed = f"{one['failed']:,} of {one['requests']:,}"
            attached = "all" if one["attached"] >= one["requests"] else f"{one['attached']:,}"
            rows.append((f"{command}, {line}", failed, attached, f"{one['connections']:,}"))
    return table(header, rows)


def _hang_ups(results: Results) -> str:
    rows = [
        (line, *(_hang_up(sides[side]) for side in SIDES))
        for line, sides in results.session.get("hang_ups", {}).items()
    ]
    return table(("LiteLLM, provider `hosted_vllm`", *COMMANDS.values()), rows)


def _hang_up(found: dict[str, Any]) -> str:
    lost = f"{found['failed']} of the {found['clients']} time out; " if found["failed"] else ""
    answer = "answers" if found["answered"] else "times out"
    plural = "" if found["held"] == 1 else "s"
    held = f"{found['held']} connection{plural} held" if found["held"] else "**none held**"
    return f"{lost}{answer}; {held}"


def _memory_bound(results: Results) -> str:
    header = ("", "failed requests", "killed by the kernel", "replaced for memory", "highest use")
    rows = [
        (label, _failed(one), _bold(one["killed"]), f"{one['recycled']:,}", _of_limit(one))
        for label, one in _sides(results.bounds.get("memory", {}))
    ]
    return table(header, rows)


def _of_limit(one: Mapping[str, Any]) -> str:
    return f"{one['memory']:,} of {one['limit']:,} MB"


def _draining_bound(results: Results) -> str:
    """Short requests beside long streams, and beside idle connections."""
    header = ("Beside", "", "failed requests", "failed there", "recycles", "drained at once", "PSS")
    rows = []
    for scenario, words in DRAINING.items():
        for label, one in _sides(results.bounds.get(scenario, {})):
            there = _failed(one["others"])
            counts = (f"{one['recycled']:,}", str(one["draining"]))
            ours = counts if one["recycled"] else (NOTHING, NOTHING)
            rows.append((words, label, _failed(one), there, *ours, MEGABYTES(one["memory"])))
    return table(header, rows)


def _sides(by_line: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for line, sides in by_line.items():
        for side, command in COMMANDS.items():
            yield f"{command}, {line}", sides[side]


def _failed(one: Mapping[str, Any]) -> str:
    return f"{_bold(sum(one['failures'].values()))} of {one['requests']:,}"


def _compared(
    compared: Mapping[str, Mapping[str, Mapping[str, Any]]],
    names: Collection[str] = (),
    *,
    absent: str = "never",
) -> str:
    """Comparisons of both sides; only what is named, or everything."""
    header = ("LiteLLM", "", "litellm", "litellm-resilience", "ratio", "95 % of that")
    rows = []
    for outcomes in compared.values():
        for line, outcome in outcomes.items():
            for one in outcome["results"]:
                if names and one["name"] not in names:
                    continue
                values = (_quantity(one["value"][side], one["unit"], absent) for side in SIDES)
                ratio, interval = one["ratio"], one["ratio_95"]
                shown = NOTHING if ratio is None else f"{ratio:.3f}"
                spread = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else NOTHING
                rows.append((line, one["name"], *values, shown, spread))
    return table(header, rows)


def _even_load(results: Results) -> str:
    found = [each for outcomes in results.balance.values() for each in outcomes.values()]
    others = {each.get("processor", results.machine.processor) for each in found}
    others.discard(results.machine.processor)
    elsewhere = f"\n\nMeasured on another machine than the rest ({', '.join(sorted(others))})."
    return _compared(results.balance, absent=NOTHING) + (elsewhere if others else "")


def _long_run(path: Path | None) -> str:
    if path is None or not path.exists():
        return ""
    total = LongRun.load_from(path)
    about = (
        "{sentence} ({measured}LiteLLM {litellm}, uvicorn {uvicorn}, {workers} workers, "
        "limit {limit}, jitter {jitter}{stack}). {ledger}"
    )
    measured = f"{said}; " if (said := total.measured()) else ""
    stack = f", {total.conditions['stack']}" if "stack" in total.conditions else ""
    given = {**total.conditions, "stack": stack, "measured": measured}
    text = about.format(sentence=total.sentence(), ledger=total.ledger(), **given)
    return _wrapped(text.rstrip())


def _machine(results: Results) -> str:
    machine = results.machine
    commit = f"commit {results.commit}" if results.commit else "a commit that was not recorded"
    return _wrapped(
        f"Measured on {results.date}: {machine.cores} cores ({machine.processor}), "
        f"{machine.system}, Python {machine.python}, aiohttp "
        f"{machine.versions.get('aiohttp') or 'unknown'}; `python -m benchmarks` of {commit}."
    )


def _details(results: Results, kind: str) -> str:
    def of_load(
        pick: Callable[[Seen], float | None], form: Callable[[float], str] = _seconds
    ) -> Column:
        return _median(lambda each: pick(each.loads[kind]) if kind in each.loads else None, form)

    columns = {
        "failed" if kind == "json" else "failed streams": _of(kind, _lost),
        "seconds without a reply": of_load(lambda seen: seen.silent_seconds, "{:g}".format),
        "per second": of_load(lambda seen: seen.throughput, "{:.1f}".format),
        "p50": of_load(lambda seen: seen.p50),
        "p99": of_load(lambda seen: seen.p99),
        "longest": of_load(lambda seen: seen.longest),
        "recycles": of_load(lambda seen: len(seen.recycles), "{:g}".format),
        "first reply after": _median(lambda each: each.ready, _seconds, NEVER_UP),
        "all serve after": ALL_READY,
        "PSS": MEMORY,
        "PSS at the end": _median(lambda each: each.memory_at_end, MEGABYTES),
    }
    rows = [(str(cell), sides) for cell, sides in _shown(results) if kind in cell.kinds]
    return _table("LiteLLM, set-up", rows, columns) if rows else ""


def _ends(results: Results) -> Iterator[str]:
    """What became of proxies that did not serve to the end."""
    for cell, sides in results.cells.items():
        for name, side in sides.items():
            for each in side:
                if each.problem:
                    yield f"{cell}, {name}: {each.problem.splitlines()[0]}"
                for kind, seen in each.loads.items():
                    if seen.exit_status is not None:
                        status = f"ended with status {seen.exit_status}"
                        yield f"{cell}, {name}: {status} during the load {kind}"


def _shown(results: Results) -> list[tuple[Cell, Sides]]:
    """The set-ups, those with a stack first; but not the one for the picture."""
    shown = [each for each in results.cells.items() if PICTURED not in each[0].kinds]
    return sorted(shown, key=lambda each: each[0].stack == BARE)


def _size(cell: Cell) -> tuple[str, str, int]:
    return cell.line, cell.server, cell.workers


def _table(first: str, rows: Sequence[tuple[str, Sides]], columns: Mapping[str, Column]) -> str:
    filled = [(label, *(text(sides) for text in columns.values())) for label, sides in rows]
    return table((first, *columns), filled)


def _of(kind: str, text: Callable[[Sequence[Seen]], str]) -> Column:
    """A text for the loads of a kind."""

    def both(sides: Sides) -> str:
        seen = [[each.loads[kind] for each in sides[side] if kind in each.loads] for side in SIDES]
        return " → ".join(text(loads) if loads else NOTHING for loads in seen)

    return both


def _median(
    pick: Callable[[Measurement], float | None], form: Callable[[float], str], absent: str = NOTHING
) -> Column:
    """The median of a figure; what is absent was looked for in vain."""

    def one(rounds: Sequence[Measurement]) -> str:
        values = [value for each in rounds if (value := pick(each)) is not None]
        return form(median(values)) if values else absent if rounds else NOTHING

    return lambda sides: " → ".join(one(sides[side]) for side in SIDES)


def _lost(loads: Sequence[Seen]) -> str:
    failed = _bold(sum(seen.failed for seen in loads))
    return f"{failed} of {sum(seen.requests for seen in loads):,}"


def _gateway(loads: Sequence[Seen]) -> str:
    return _bold(sum(sum(seen.gateway_errors.values()) for seen in loads))


def _silence(loads: Sequence[Seen]) -> str:
    return _bold(round(median(seen.silent_seconds for seen in loads)))


def _recycles(loads: Sequence[Seen]) -> str:
    return f"{sum(len(seen.recycles) for seen in loads):,}"


def _bold(count: int) -> str:
    return f"{count:,}" if count else "**0**"


def _boot(each: Measurement) -> float | None:
    boots = [boot for seen in each.loads.values() for boot in seen.boots]
    return median(boots) if boots else None


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"


def _quantity(value: float | None, unit: str, absent: str) -> str:
    if value is None:
        return absent
    return (f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}").rstrip()


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


MEGABYTES = "{:,.0f} MB".format
MEMORY = _median(lambda each: each.memory, MEGABYTES)
ALL_READY = _median(lambda each: each.all_ready, _seconds, NEVER_UP)
COLUMNS: Mapping[str, Column] = {
    "failed requests": _of("json", _lost),
    "failed streams": _of("stream", _lost),
    "seconds without a reply": _of("json", _silence),
    "replacement ready after": _median(_boot, _seconds, NOT_REPLACED),
    "memory (PSS)": MEMORY,
    "all workers serve after": ALL_READY,
}
HEADLINE_COLUMNS = tuple(COLUMNS)[:5]
