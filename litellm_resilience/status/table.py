"""The state of a supervisor as a table for the terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.journal import counted, how_started
from litellm_resilience.supervisor.limits import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

WIDTH = 100
"""Columns of a terminal that lines of text are broken for."""
EVENTS_SHOWN = 8
"""How many of the last events are shown."""
MINUTE, HOUR, DAY = 60, 3600, 86400

COLUMNS: Sequence[tuple[str, Callable[[dict[str, Any]], str]]] = (
    ("slot", lambda worker: str(worker["slot"])),
    ("worker", lambda worker: str(worker["number"])),
    ("pid", lambda worker: str(worker["pid"])),
    ("state", lambda worker: str(worker["state"])),
    ("age", lambda worker: duration(worker["age"])),
    ("requests", lambda worker: f"{worker['requests']}{_of(worker['request_limit'])}"),
    ("in flight", lambda worker: str(worker["in_flight"])),
    ("records", lambda worker: str(worker["records"])),
    ("memory", lambda worker: f"{worker['memory'] // MEGABYTE} MB" if worker["memory"] else "-"),
    ("loop lag", lambda worker: f"{worker['event_loop_lag']:.3f} s"),
)


def render(state: dict[str, Any]) -> str:
    """Return a table of all workers, the totals, and what happened last.

    Whatever the state holds, nothing but printable ASCII reaches the terminal, which might obey it.
    """
    workers = state["workers"]
    lines = [
        *_wrapped(_summary(state), "  "),
        "",
        *_rows(workers),
        *_wrapped(_replaced(workers), "  "),
        "",
        *_wrapped(_events(state), " " * 14),
    ]
    return "\n".join(map(printable, lines))


def _wrapped(lines: Iterable[str], indent: str) -> Iterator[str]:
    for line in lines:
        yield from textwrap.wrap(printable(line), WIDTH, subsequent_indent=indent)


def started(supervisor: Mapping[str, Any]) -> str:
    """Return how a supervisor's workers are started, and why not from its own process.

    Args:
        supervisor: that part of the state.
    """
    how = how_started(str(supervisor["start_method"]), supervisor.get("start_obstacle"))
    return printable(how)


def printable(text: str) -> str:
    """Replace what could mean something to a terminal, or more than a line."""
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    return character if character.isascii() and character.isprintable() else "?"


def _summary(state: dict[str, Any]) -> Iterator[str]:
    supervisor, totals = state["supervisor"], state["totals"]
    versions = supervisor["versions"]
    yield (
        f"litellm-resilience {versions['litellm-resilience']}, LiteLLM {versions['litellm']}, "
        f"uvicorn {versions['uvicorn']}; supervisor {supervisor['pid']}, "
        f"{counted(supervisor['target'])}, {started(supervisor)}"
    )
    yield (
        f"{totals['requests']} requests answered; {totals['started']} workers started, "
        f"recycled: {_by_kind(totals['recycled'])}; died: {_by_kind(totals['died'])}; "
        f"could not start: {totals['boot_failures']}"
    )
    yield (
        f"sessions recreated: {totals['sessions_recreated']}, "
        f"closes prevented: {totals['closes_prevented']}, pool waits: {totals['pool_waits']}"
    )


def _by_kind(counts: dict[str, int]) -> str:
    kinds = [f"{count} ({kind})" for kind, count in counts.items() if count]
    return ", ".join(kinds) or "0"


def _rows(workers: Sequence[dict[str, Any]]) -> Iterator[str]:
    rows = [[title for title, _ in COLUMNS]]
    rows += [[text(worker) for _, text in COLUMNS] for worker in workers]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _replaced(workers: Sequence[dict[str, Any]]) -> Iterator[str]:
    for worker in workers:
        if worker["reason"]:
            yield f"worker {worker['number']} is to be replaced: it {worker['reason']}"


def _events(state: dict[str, Any]) -> Iterator[str]:
    for event in state["events"][-EVENTS_SHOWN:]:
        yield f"{duration(event['seconds_ago']):>8} ago  {event['event']}"


def _of(limit: int | None) -> str:
    return f"/{limit}" if limit else ""


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units."""
    whole = int(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"
