"""The final summary of a demonstration, as a table or as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recycling:
    """A worker that stopped serving.

    Attributes:
        pid: its process id.
        at: seconds into the run.
        replaced_by: process id of the worker that took its place, or None if none has yet.
        replaced_at: seconds into the run at which that one served, or None.
    """

    pid: int
    at: float
    replaced_by: int | None
    replaced_at: float | None


@dataclass(frozen=True)
class Summary:
    """What a demonstration observed.

    Attributes:
        seconds: length of the load.
        requests: requests sent by the clients.
        failures: failed requests by kind.
        throughput: successful requests per second.
        latency: percentiles of successful requests in seconds, by name; NaN without any.
        silent_seconds: whole seconds without any successful reply.
        workers_recycled: the workers that stopped serving, in order.
        sessions_closed: shared sessions closed on purpose.
        sessions_recreated: shared sessions recreated, according to the proxy's log.
        upstream_connections_opened: TCP connections the provider accepted.
        upstream_requests: requests the provider received.
        client_connections_opened: connections the clients opened to the proxy.
        proxy_exit_status: set if the proxy ended during the load.
    """

    seconds: float
    requests: int
    failures: dict[str, int]
    throughput: float
    latency: dict[str, float]
    silent_seconds: int
    workers_recycled: list[Recycling] = field(default_factory=list)
    sessions_closed: int = 0
    sessions_recreated: int = 0
    upstream_connections_opened: int = 0
    upstream_requests: int = 0
    client_connections_opened: int = 0
    proxy_exit_status: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values; NaN becomes null."""
        values = asdict(self)
        values["latency"] = {
            name: None if math.isnan(value) else value for name, value in self.latency.items()
        }
        return values

    def as_table(self) -> str:
        """The fields as lines of text."""
        failures = ", ".join(f"{kind} {count}" for kind, count in sorted(self.failures.items()))
        latency = ", ".join(
            f"{name} {value * 1000:.0f} ms"
            for name, value in self.latency.items()
            if not math.isnan(value)
        )
        rows = [
            ("requests", f"{self.requests} in {self.seconds:.1f} s ({self.throughput:.1f}/s)"),
            ("failed", f"{sum(self.failures.values())}" + (f" ({failures})" if failures else "")),
            ("latency", latency or "no successful request"),
            ("seconds without a reply", f"{self.silent_seconds}"),
            ("workers recycled", f"{len(self.workers_recycled)}"),
            *(("", _describe(recycling)) for recycling in self.workers_recycled),
            ("shared sessions closed", f"{self.sessions_closed} on purpose"),
            ("shared sessions recreated", f"{self.sessions_recreated}"),
            ("upstream connections", f"{self.upstream_connections_opened} opened"),
            ("upstream requests", f"{self.upstream_requests}"),
            ("client connections", f"{self.client_connections_opened} opened"),
        ]
        if self.proxy_exit_status is not None:
            rows.append(("the proxy ended", f"with status {self.proxy_exit_status}"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _describe(recycling: Recycling) -> str:
    text = f"pid {recycling.pid} left at {recycling.at:.1f} s"
    if recycling.replaced_by is None or recycling.replaced_at is None:
        return f"{text}, not replaced yet"
    return f"{text}, pid {recycling.replaced_by} served from {recycling.replaced_at:.1f} s"
