"""The results as Markdown: fragments that the README shows, and a page with everything."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import long
from benchmarks.cell import TIMEOUT
from benchmarks.commands import ENTRIES, STARTUP_SECONDS
from benchmarks.matrix import PICTURED
from benchmarks.report import SIDES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.cell import Measurement, Seen
    from benchmarks.matrix import Cell
    from benchmarks.results import Results, Side

ARROW = " → "
NOTHING = "-"
COSTS_SHOWN = (
    "attach",
    "contended: 50 requests at once",
    "contended: 50 requests at once, session dead",
    "requests per second",
)
"""What the README shows of the costs."""
WORDS = {1: "one worker", 2: "two workers", 4: "four workers"}


def page(results: Results, state: Path | None = None) -> str:
    """Everything, as a page.

    Args:
        results: of the whole run.
        state: file of the long run, shown if it is there.
    """
    parts = ["# Benchmark results"]
    for name, text in fragments(results, state).items():
        parts += [f"## {name.replace('-', ' ').capitalize()}", text]
    details = [_details(results, kind) for kind in ("json", "stream")]
    if any(details):
        parts += ["## Details", "Each cell: plain `litellm` → `litellm-resilience`.", *details]
    parts += ["## All costs", _cost(results)] if results.cost else []
    parts += [f"**Note:** {note}." for note in [*results.notes, *_ends(results)]]
    parts += [f"**Problem:** {problem}" for problem in results.problems]
    return "\n\n".join(filter(None, parts)) + "\n"


def fragments(results: Results, state: Path | None = None) -> dict[str, str]:
    """What the README shows, by the name of its region; only what was measured."""
    found = {
        "recycling": _recycling(results),
        "fronts": _fronts(results),
        "storm": _storm(results),
        "hang-ups": _hang_ups(results),
        "cost": _cost(results, COSTS_SHOWN),
        "long-run": _long_run(state),
        "machine": _machine(results),
    }
    return {name: text for name, text in found.items() if text}


def _recycling(results: Results) -> str:
    rows = []
    for cell in _direct(results):
        plain, ours = (results.cells[cell][side] for side in SIDES)
        rows.append(
            (
                f"{cell.line}, {_server(results, cell)}, {_workers(cell)}",
                _failed(plain, ours, "json"),
                _failed(plain, ours, "stream"),
                _silence(plain, ours),
                _pair(plain, ours, _boot, _seconds, "never"),
                _pair(plain, ours, lambda each: each.memory, "{:,.0f} MB".format),
                _pair(plain, ours, lambda each: each.all_ready, _seconds, _never()),
            )
        )
    if not rows:
        return ""
    load = results.load
    about = (
        f"Limit {load.limit} (here with a jitter of {load.jitter}), {load.clients} keep-alive "
        f"clients without retries for {load.seconds:g} s, then {load.stream_clients} with streams "
        f"of {load.stream_seconds:g} s for as long. Each cell: plain `litellm` → "
        "`litellm-resilience`. Who waits for a reply when the load ends is waited for, up to "
        f"{TIMEOUT:g} s, which may be seconds without a reply. *Never* is not within the load."
    )
    if load.plain_entry != ENTRIES[0]:
        about += " Plain `litellm` is started by its function here, not by its script."
    header = (
        "LiteLLM, server, workers",
        "failed requests",
        "failed streams",
        "seconds without a reply",
        "replacement ready after",
        "memory (PSS)",
        "all workers serve after",
    )
    return f"{_wrapped(about)}\n\n{_table(header, rows)}"


def _fronts(results: Results) -> str:
    rows = []
    names = {"direct": "straight to the proxy"}
    ways = [cell for cell in results.cells if cell.way != "direct"]
    compared = {(cell.line, cell.server, cell.workers) for cell in ways}
    for cell, sides in results.cells.items():
        if (cell.line, cell.server, cell.workers) not in compared or PICTURED in cell.kinds:
            continue
        plain, ours = (sides[side] for side in SIDES)
        rows.append(
            (
                f"{names.get(cell.way, cell.way)}, {cell.line}",
                _failed(plain, ours, "json"),
                _gateway(cell, plain, ours, "json"),
                _failed(plain, ours, "stream"),
                _gateway(cell, plain, ours, "stream"),
            )
        )
    header = (
        "Clients",
        "failed requests",
        "of these 502, 503, 504",
        "failed streams",
        "of these 502, 503, 504",
    )
    return _table(header, rows) if ways else ""


def _storm(results: Results) -> str:
    rows = []
    for line, sides in results.session.get("storm", {}).items():
        for side in SIDES:
            one = sides[side]
            attached = "all" if one["attached"] >= one["requests"] else f"{one['attached']:,}"
            cells = [
                f"{one['failed']:,} of {one['requests']:,}",
                attached,
                f"{one['connections']:,}",
            ]
            rows.append((f"{_command(side)}, {line}", *cells))
    header = ("", "failed requests", "requests on the shared session", "upstream connections")
    return _table(header, rows) if rows else ""


def _hang_ups(results: Results) -> str:
    rows = [
        (line, *(_hang_up(sides[side]) for side in SIDES))
        for line, sides in results.session.get("hang_ups", {}).items()
    ]
    header = ("LiteLLM, provider `hosted_vllm`", *map(_command, SIDES))
    return _table(header, rows) if rows else ""


def _hang_up(found: dict[str, Any]) -> str:
    lost = f"{found['failed']} of the {found['clients']} time out; " if found["failed"] else ""
    answer = "answers" if found["answered"] else "times out"
    plural = "" if found["held"] == 1 else "s"
    held = f"{found['held']} connection{plural} held" if found["held"] else "**none held**"
    return f"{lost}{answer}; {held}"


def _cost(results: Results, names: Collection[str] = ()) -> str:
    """What the patches cost; only what is named, or everything."""
    rows = []
    for outcomes in results.cost.values():
        for line, outcome in outcomes.items():
            for one in outcome["results"]:
                if names and one["name"] not in names:
                    continue
                medians = [one["median"][side] for side in SIDES]
                interval = one["paired_ratio_95"]
                rows.append(
                    (
                        line,
                        one["name"],
                        *(_quantity(value, one["unit"]) for value in medians),
                        NOTHING if one["paired_ratio"] is None else f"{one['paired_ratio']:.3f}",
                        NOTHING if not interval else f"{interval[0]:.3f} to {interval[1]:.3f}",
                    )
                )
    header = ("LiteLLM", "", "litellm", "litellm-resilience", "ratio", "95 % of that")
    return _table(header, rows) if rows else ""


def _long_run(state: Path | None) -> str:
    if state is None or not state.exists():
        return ""
    total = long.read(state)
    conditions = total.conditions
    about = (
        f"{total.sentence()} (LiteLLM {conditions['litellm']}, uvicorn {conditions['uvicorn']}, "
        f"{conditions['workers']} workers, limit {conditions['limit']}, jitter "
        f"{conditions['jitter']})."
    )
    return _wrapped(about)


def _machine(results: Results) -> str:
    machine = results.machine
    about = (
        f"Measured on {results.date} by `python -m benchmarks`: {machine.cores} cores "
        f"({machine.processor}), {machine.system}, Python {machine.python}."
    )
    return _wrapped(about)


def _details(results: Results, kind: str) -> str:
    header = (
        "LiteLLM, set-up",
        "failed" if kind == "json" else "failed streams",
        "seconds without a reply",
        "per second",
        "p50",
        "p99",
        "longest",
        "recycles",
        "first reply after",
        "all serve after",
        "PSS",
        "PSS at the end",
    )
    rows = []
    for cell, plain, ours in results.measured(kind):

        def of_load(pick: Callable[[Seen], float | None]) -> Callable[[Measurement], float | None]:
            return lambda each: pick(each.loads[kind]) if kind in each.loads else None

        rows.append(
            (
                str(cell),
                _failed(plain, ours, kind),
                _pair(plain, ours, of_load(lambda seen: seen.silent_seconds), "{:g}".format),
                _pair(plain, ours, of_load(lambda seen: seen.throughput), "{:.1f}".format),
                _pair(plain, ours, of_load(lambda seen: seen.p50), _seconds),
                _pair(plain, ours, of_load(lambda seen: seen.p99), _seconds),
                _pair(plain, ours, of_load(lambda seen: seen.longest), _seconds),
                _pair(plain, ours, of_load(lambda seen: len(seen.recycles)), "{:g}".format),
                _pair(plain, ours, lambda each: each.ready, _seconds, _never()),
                _pair(plain, ours, lambda each: each.all_ready, _seconds, _never()),
                _pair(plain, ours, lambda each: each.memory, "{:,.0f} MB".format),
                _pair(plain, ours, lambda each: each.memory_at_end, "{:,.0f} MB".format),
            )
        )
    return _table(header, rows) if rows else ""


def _ends(results: Results) -> Iterator[str]:
    """What became of proxies that did not serve to the end."""
    for cell, sides in results.cells.items():
        for name, side in sides.items():
            for each in side.rounds:
                if each.problem:
                    yield f"{cell}, {name}: {each.problem.splitlines()[0]}"
                for kind, seen in each.loads.items():
                    if seen.exit_status is not None:
                        status = f"ended with status {seen.exit_status}"
                        yield f"{cell}, {name}: {status} during the load {kind}"


def _direct(results: Results) -> list[Cell]:
    """The set-ups without anything between, but the one for the picture."""
    return [c for c in results.cells if c.way == "direct" and PICTURED not in c.kinds]


def _server(results: Results, cell: Cell) -> str:
    return f"{cell.server} {results.versions[cell.line][cell.server]}"


def _workers(cell: Cell) -> str:
    return WORDS.get(cell.workers, f"{cell.workers} workers")


def _failed(plain: Side, ours: Side, kind: str) -> str:
    return ARROW.join(_lost(side.seen(kind)) for side in (plain, ours))


def _lost(loads: Sequence[Seen]) -> str:
    if not loads:
        return NOTHING
    failed = sum(seen.failed for seen in loads)
    return f"{_bold(failed)} of {sum(seen.requests for seen in loads):,}"


def _gateway(cell: Cell, plain: Side, ours: Side, kind: str) -> str:
    if cell.front == "none":
        return NOTHING
    counts = (
        sum(sum(seen.gateway_errors.values()) for seen in side.seen(kind)) for side in (plain, ours)
    )
    return ARROW.join(map(_bold, counts))


def _silence(plain: Side, ours: Side) -> str:
    """Of the JSON load, or else of the streams."""
    kind = "json" if plain.seen("json") or ours.seen("json") else "stream"
    return ARROW.join(_silent(side.seen(kind)) for side in (plain, ours))


def _silent(loads: Sequence[Seen]) -> str:
    return _bold(round(median(seen.silent_seconds for seen in loads))) if loads else NOTHING


def _bold(count: int) -> str:
    return f"{count:,}" if count else "**0**"


def _boot(each: Measurement) -> float | None:
    boots = [boot for seen in each.loads.values() for boot in seen.boots]
    return median(boots) if boots else None


def _pair(
    plain: Side,
    ours: Side,
    pick: Callable[[Measurement], float | None],
    form: Callable[[float], str],
    absent: str = NOTHING,
) -> str:
    texts = []
    for side in (plain, ours):
        values = side.values(pick)
        texts.append(form(median(values)) if values else absent if side.rounds else NOTHING)
    return ARROW.join(texts)


def _never() -> str:
    return f"not in {STARTUP_SECONDS:g} s"


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return "never"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _command(side: str) -> str:
    return "plain `litellm`" if side == "plain" else "`litellm-resilience`"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _wrapped(text: str, width: int = 100) -> str:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
