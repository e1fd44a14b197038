"""What a demonstration has observed, as a table, as JSON, and as a verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Summary:
    """What one proxy did.

    Attributes:
        seconds: length of the load.
        requests: requests sent by the clients.
        failures: failed requests by kind, without those that the SIGKILL cost.
        throughput: successful requests per second.
        latency: percentiles of successful requests in seconds, by name; NaN without any.
        silent_seconds: whole seconds without any successful reply.
        recycled: workers that stopped, but for the killed one.
        killed_requests: failed requests on connections to the worker that SIGKILL ended.
        killed_records: records that died with it.
        sessions_closed: shared sessions closed on purpose.
        sessions_recreated: shared sessions recreated, according to the proxy's log.
        records: replies that the batch sink has heard of.
        records_missing: replies of other workers that it has not heard of.
        records_twice: replies that it has heard of more than once.
        upstream_connections: TCP connections that the provider accepted.
        exit_status: set if the proxy ended during the load.
    """

    seconds: float
    requests: int
    failures: dict[str, int]
    throughput: float
    latency: dict[str, float]
    silent_seconds: int
    recycled: int = 0
    killed_requests: int = 0
    killed_records: int = 0
    sessions_closed: int = 0
    sessions_recreated: int = 0
    records: int = 0
    records_missing: int = 0
    records_twice: int = 0
    upstream_connections: int = 0
    exit_status: int | None = None

    @property
    def failed(self) -> int:
        """Failed requests, without those that the SIGKILL cost."""
        return sum(self.failures.values())

    @property
    def lost(self) -> str:
        """What was lost, in words; empty if nothing was."""
        found = [
            f"{self.failed} of {counted(self.requests, 'request')} failed" if self.failed else "",
            f"{counted(self.records_missing, 'record')} never arrived"
            if self.records_missing
            else "",
            f"{counted(self.records_twice, 'record')} arrived twice" if self.records_twice else "",
            "the proxy ended" if self.exit_status is not None else "",
        ]
        return ", ".join(filter(None, found))

    @property
    def good(self) -> bool:
        """Whether workers were recycled and nothing was lost."""
        return bool(self.recycled) and not self.lost

    def verdict(self, name: str) -> str:
        """Return the outcome in one sentence.

        Args:
            name: of the command.
        """
        times = "once" if self.recycled == 1 else f"{self.recycled} times"
        while_recycled = f"while workers were recycled {times}"
        if self.lost:
            return f"{name}: {self.lost} {while_recycled}."
        if not self.recycled:
            return f"{name}: no worker was recycled in {self.seconds:.0f} s, so this shows nothing."
        killed = ""
        if self.killed_requests or self.killed_records:
            killed = (
                f"; the SIGKILL cost {counted(self.killed_requests, 'request')} and "
                f"{counted(self.killed_records, 'record')} that this worker had in hand"
            )
        return f"{name}: 0 of {self.requests} requests and 0 records lost {while_recycled}{killed}."

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values; NaN becomes null."""
        latency = {n: None if math.isnan(value) else value for n, value in self.latency.items()}
        return {**asdict(self), "latency": latency, "good": self.good}


def table(summaries: Mapping[str, Summary]) -> str:
    """Return the outcomes side by side, as lines of text.

    Args:
        summaries: by the name of the command.
    """
    columns = [_rows(summary) for summary in summaries.values()]
    rows = [("", *summaries)]
    rows += [(row[0][0], *(value for _, value in row)) for row in zip(*columns, strict=True)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _rows(summary: Summary) -> list[tuple[str, str]]:
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(summary.failures.items()))
    p50, p99 = (summary.latency.get(name, math.nan) * 1000 for name in ("p50", "p99"))
    return [
        ("requests", f"{summary.requests} in {summary.seconds:.0f} s"),
        ("failed", f"{summary.failed}" + (f" ({kinds})" if kinds else "")),
        ("failed by the SIGKILL", f"{summary.killed_requests}"),
        ("seconds without a reply", f"{summary.silent_seconds}"),
        ("half of the replies within", "-" if math.isnan(p50) else f"{p50:.0f} ms"),
        ("99 % of the replies within", "-" if math.isnan(p99) else f"{p99:.0f} ms"),
        ("workers recycled", f"{summary.recycled}"),
        ("records at the batch sink", f"{summary.records}"),
        ("records missing", f"{summary.records_missing}"),
        ("records that died by SIGKILL", f"{summary.killed_records}"),
        ("shared sessions closed", f"{summary.sessions_closed}"),
        ("shared sessions recreated", f"{summary.sessions_recreated}"),
        ("connections to the provider", f"{summary.upstream_connections}"),
    ]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
