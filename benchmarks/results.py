"""What was measured, as plain data that is stored and read again."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Machine, upper_bound
from benchmarks.setups import SIDES, Cell, Load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litellm_resilience.demo.load import LoadReport

DIRECTORY = Path(__file__).with_name("results")
LONG_RUN = "long.jsonl"
"""The slices of the long run, in the same directory."""
LONG_RUN_RECORDS = "long-records.jsonl"
"""The same of one with a database and a logging sink."""
GATEWAY_ERRORS = (502, 503, 504)


@dataclass
class Seen:
    """What clients saw of one load, and what was seen of the workers meanwhile.

    Attributes:
        seconds: during which requests were started.
        requests: sent.
        failed: without a complete reply of status 2xx or 3xx.
        failures: the same by kind.
        gateway_errors: replies with one of `GATEWAY_ERRORS`, by status.
        silent_seconds: whole seconds without a reply.
        throughput: successful requests per second.
        p50, p99, longest: latency of successful requests in seconds; None without any.
        replies: successful requests in each second.
        recycles: seconds after which workers had left.
        boots: seconds that replacements took, as our log says, else from their predecessors' end.
        serving: workers at the start.
        exit_status: of a proxy that ended.
    """

    seconds: float
    requests: int
    failed: int
    failures: dict[str, int]
    gateway_errors: dict[str, int]
    silent_seconds: int
    throughput: float
    p50: float | None
    p99: float | None
    longest: float | None
    replies: list[int]
    recycles: list[float]
    boots: list[float]
    serving: int
    exit_status: int | None

    @classmethod
    def of(cls, report: LoadReport, **watched: Any) -> Seen:
        """Digest the report of a load."""
        statuses = Counter(str(r.status) for r in report.records if r.status in GATEWAY_ERRORS)
        replies = [0] * math.ceil(report.sending)
        for record in report.records:
            if record.ok and record.timestamp < len(replies):
                replies[int(record.timestamp)] += 1
        p50, p99, longest = (
            None if math.isnan(seconds) else round(seconds, 4)
            for seconds in map(report.percentile, (50, 99, 100))
        )
        return cls(
            seconds=round(report.sending, 2),
            requests=report.requests,
            failed=report.requests - report.successes,
            failures=report.failures,
            gateway_errors=dict(statuses),
            silent_seconds=report.silent_seconds(),
            throughput=round(report.throughput, 2),
            p50=p50,
            p99=p99,
            longest=longest,
            replies=replies,
            **watched,
        )


@dataclass
class Measurement:
    """One side of one set-up, once.

    Attributes:
        ready: seconds from the start of the process to its first reply; None if there was none.
        all_ready: seconds until all workers served; None if they did not in `STARTUP_SECONDS`.
        memory: PSS of all its Python processes in MB once started.
        memory_at_end: the same after the loads; None if it had ended.
        stopped_after: seconds from SIGTERM to its end.
        restarts: how often it had to be started again because it had ended.
        loads: what was seen, by kind of load.
        records: how often each reply was recorded, by sink, when the proxy had ended.
        problem: why there are no loads, or fewer.
    """

    ready: float | None = None
    all_ready: float | None = None
    memory: float | None = None
    memory_at_end: float | None = None
    stopped_after: float | None = None
    restarts: int = 0
    loads: dict[str, Seen] = field(default_factory=dict)
    records: dict[str, list[int]] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Measurement:
        """The opposite of `dataclasses.asdict`."""
        loads = {kind: Seen(**seen) for kind, seen in values.get("loads", {}).items()}
        return cls(**{**values, "loads": loads})


Sides = dict[str, list[Measurement]]
"""The rounds of a set-up, by side."""


@dataclass
class Results:
    """Figures of the whole run, and what they were measured on.

    Attributes:
        date: of the first measurement.
        machine: and the interpreter of the command itself.
        load: what was sent.
        versions: of packages, by name, for each line.
        cells: both sides by set-up.
        session: figures of the shared session by scenario, line and side.
        cost: results of other benchmarks by name and line.
        balance: how even the load is, by scenario and line.
        bounds: what memory and draining workers come to, by scenario, line and side.
        notes: what was left out.
        problems: what was not as intended.
        commit: of the checkout that was measured; empty if that is not known.
    """

    date: str
    machine: Machine
    load: Load
    versions: dict[str, dict[str, str | None]]
    cells: dict[Cell, Sides] = field(default_factory=dict)
    session: dict[str, dict[str, dict[str, dict[str, Any]]]] = field(default_factory=dict)
    cost: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    balance: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    bounds: dict[str, dict[str, dict[str, dict[str, Any]]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    commit: str = ""

    def add(self, cell: Cell, side: str, measurement: Measurement) -> None:
        """Add one round of one side of a set-up."""
        self.cells.setdefault(cell, {each: [] for each in SIDES})[side].append(measurement)

    def as_dict(self) -> dict[str, Any]:
        """The results as JSON values."""
        cells = [
            {
                "cell": cell.as_json(),
                **{side: [asdict(each) for each in rounds] for side, rounds in sides.items()},
            }
            for cell, sides in self.cells.items()
        ]
        values = {name: value for name, value in vars(self).items() if name != "cells"}
        values |= {"machine": asdict(self.machine), "load": asdict(self.load)}
        return {**values, "cells": cells}

    @classmethod
    def load_from(cls, path: Path) -> Results:
        """Read what `as_dict` gave.

        Raises:
            OSError: there is no such file.
        """
        values = json.loads(path.read_text(encoding="utf-8"))
        cells = values.pop("cells")
        made = {"machine": Machine(**values["machine"]), "load": Load(**values["load"])}
        results = cls(**{**values, **made})
        for each in cells:
            cell = Cell.from_json(each["cell"])
            for side in SIDES:
                for measurement in each[side]:
                    results.add(cell, side, Measurement.from_json(measurement))
        return results


@dataclass
class LongRun:
    """The sum of all slices of the long run.

    Attributes:
        conditions: of the run.
        slices: how many there were.
        requests: sent, by kind of load.
        failures: by kind of failure.
        recycles: of workers.
        seconds: of load.
        answered: replies.
        recorded: replies with a record, by sink.
        twice: replies with more than one, by sink.
        days: on which slices began.
    """

    conditions: dict[str, Any]
    slices: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    recycles: int = 0
    seconds: float = 0.0
    answered: int = 0
    recorded: Counter[str] = field(default_factory=Counter)
    twice: Counter[str] = field(default_factory=Counter)
    days: set[str] = field(default_factory=set)

    def add(self, figures: Mapping[str, Any]) -> None:
        """Add a slice."""
        self.slices += 1
        if "began" in figures:
            self.days.add(figures["began"].partition(" ")[0])
        self.requests[figures["kind"]] += figures["requests"]
        self.failures.update(figures["failures"])
        self.recycles += figures["recycles"]
        self.seconds += figures["seconds"]
        self.answered += figures["requests"] - sum(figures["failures"].values())
        for sink, (recorded, twice) in figures.get("records", {}).items():
            self.recorded[sink] += recorded
            self.twice[sink] += twice

    @property
    def bound(self) -> float | None:
        """The share of requests lost is below this, with 95 % confidence; None without requests."""
        sent = self.requests.total()
        return upper_bound(self.failures.total(), sent) if sent else None

    def sentence(self) -> str:
        """The outcome in one sentence."""
        number, failed, bound = self.requests.total(), self.failures.total(), self.bound
        if bound is None:
            return "0 requests so far"
        kinds = " and ".join(
            f"{count:,} {'streams' if kind == 'stream' else 'JSON'}"
            for kind, count in self.requests.items()
        )
        rule = f"{bound * number:.1f}" if failed else "3"
        return (
            f"{failed} of {number:,} requests failed ({kinds}) while workers were recycled "
            f"{self.recycles:,} times: a loss below {100 * bound:.2g} % ({rule} of {number:,}) "
            "with 95 % confidence"
        )

    def measured(self) -> str:
        """Which version of this package was measured, and on which days."""
        version = self.conditions.get("litellm-resilience")
        days = sorted({min(self.days), max(self.days)}) if self.days else []
        package = f"litellm-resilience {version}" if version else ""
        return ", ".join(filter(None, (package, " to ".join(days))))

    def ledger(self) -> str:
        """What became of the records, in a sentence; empty if no sink was there."""
        sinks = [
            f"{max(0, self.answered - recorded)} at {sink} ({self.twice[sink]} twice)"
            for sink, recorded in self.recorded.items()
        ]
        if not sinks:
            return ""
        return f"Records missing of {self.answered:,} replies: {', '.join(sinks)}."

    @classmethod
    def load_from(cls, path: Path) -> LongRun:
        """Read the slices that are complete: an interruption may have left a part of one more."""
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        conditions, *slices = (json.loads(line) for line in lines if line.endswith("\n"))
        total = cls(conditions)
        for figures in slices:
            total.add(figures)
        return total
