"""The scoreboard as Prometheus metrics; needs `prometheus_client`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from litellm_resilience.status import versions
from litellm_resilience.status.document import worker
from litellm_resilience.supervisor.policy import WorkerState
from litellm_resilience.supervisor.scoreboard import BOOT_SECONDS, DRAIN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from litellm_resilience.session.keeper import Counters
    from litellm_resilience.supervisor.scoreboard import Scoreboard

PREFIX = "litellm_resilience_"

COUNTS = {
    "requests": ("requests", "Requests answered, including by workers that have ended."),
    "sessions_recreated": ("sessions_recreated", "Shared aiohttp sessions recreated."),
    "closes_prevented": (
        "session_closes_prevented",
        "Closes of the shared session by code that does not own it, prevented.",
    ),
    "pool_waits": (
        "session_pool_waits",
        "Requests that had to wait for a free connection of the shared session.",
    ),
}
"""Metric and help for each of the scoreboard's counts."""

PER_WORKER = {
    "requests": ("worker_requests", "Requests answered by the worker in this slot."),
    "request_limit": ("worker_request_limit", "Requests after which the worker is replaced."),
    "in_flight": ("worker_requests_in_flight", "Requests that the worker is answering."),
    "records": (
        "worker_records_held",
        "Log events, spans and spend that the worker has not sent yet.",
    ),
    "memory": ("worker_resident_memory_bytes", "Resident memory, shared pages included."),
    "event_loop_lag": (
        "worker_event_loop_lag_seconds",
        "Longest delay of the event loop in the last 10 s, or how long it has stood still.",
    ),
    "age": ("worker_age_seconds", "Seconds since the worker became ready."),
    "session_generation": (
        "worker_session_generation",
        "Shared sessions that the worker has had.",
    ),
}
"""Metric and help for what the status says of each worker."""


class ScoreboardCollector:
    """Collects from a scoreboard, in whichever process.

    Args:
        board: where supervisor and workers write.
    """

    def __init__(self, board: Scoreboard) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        totals = self._board.totals
        yield _info(self._board.totals.start_method)
        yield _gauge("workers_target", "Workers that should serve.", totals.target)
        living = [row.state for _, row in self._board.living()]
        by_state = {state.value: living.count(state) for state in WorkerState}
        yield _labelled(GaugeMetricFamily, "workers", "Workers in each state.", "state", by_state)
        yield from self._per_worker()
        for name, value in self._board.counted().items():
            yield _counter(*COUNTS[name], value)
        yield _counter("workers_started", "Workers started.", totals.started)
        yield _counter(
            "worker_boot_failures",
            "Workers that ended before they were ready.",
            totals.boot_failures,
        )
        yield _labelled(
            CounterMetricFamily,
            "workers_recycled",
            "Workers replaced, by reason.",
            "reason",
            totals.recycled_by_reason,
        )
        yield _labelled(
            CounterMetricFamily,
            "workers_died",
            "Workers that died or were killed, by cause.",
            "cause",
            totals.died_by_cause,
        )
        yield _labelled(
            CounterMetricFamily,
            "records_lost",
            "Log events, spans and spend that a worker had not sent when it ended, by sink.",
            "sink",
            self._board.lost_records(),
        )
        yield _labelled(
            CounterMetricFamily,
            "event_loop_blocks",
            "Times that an event loop stood still for more than --slow_callback, by module.",
            "module",
            self._board.blocks(),
        )
        yield _histogram(
            "worker_boot_seconds",
            "Seconds from the start of a worker until it is ready.",
            BOOT_SECONDS,
            totals.boot,
        )
        yield _histogram(
            "worker_drain_seconds",
            "Seconds from the start of a drain until the worker has ended.",
            DRAIN_SECONDS,
            totals.drain,
        )

    def _per_worker(self) -> Iterator[Metric]:
        now = time.monotonic()
        workers = [worker(slot, row, now) for slot, row in self._board.living()]
        for key, (name, text) in PER_WORKER.items():
            values = {str(w["slot"]): w[key] for w in workers if w[key] is not None}
            yield _labelled(GaugeMetricFamily, name, text, "slot", values)


class ProcessCollector:
    """Collects the session's counts of this process, where there is no supervisor.

    Args:
        counters: what they are now.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield _info("unsupervised")
        yield _counter(*COUNTS["sessions_recreated"], self._counters.recreated)
        yield _counter(*COUNTS["closes_prevented"], self._counters.prevented_closes)
        yield _counter(*COUNTS["pool_waits"], self._counters.pool_waits)


def _info(method: str) -> Metric:
    found = versions.report()
    labels = {
        "version": found["litellm-resilience"] or "",
        "litellm": found["litellm"] or "",
        "uvicorn": found["uvicorn"] or "",
        "start_method": method,
    }
    family = GaugeMetricFamily(f"{PREFIX}info", "What runs.", labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _labelled(
    family_class: Any, name: str, text: str, label: str, values: Mapping[str, float]
) -> Metric:
    family: Metric = family_class(PREFIX + name, text, labels=[label])
    for value, number in values.items():
        family_class.add_metric(family, [value], number)
    return family


def _histogram(name: str, text: str, bounds: Sequence[float], measured: Any) -> Metric:
    buckets = []
    count = 0
    for bound, more in zip([*map(str, bounds), "+Inf"], measured.counts, strict=True):
        count += more
        buckets.append((bound, count))
    return HistogramMetricFamily(PREFIX + name, text, buckets=buckets, sum_value=measured.sum)
