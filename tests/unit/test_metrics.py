"""The scoreboard as Prometheus metrics."""

from __future__ import annotations

import multiprocessing

import pytest
from metrics_doc import documented

from litellm_resilience.session.keeper import Counters
from litellm_resilience.supervisor.figures import Figures
from litellm_resilience.supervisor.policy import WorkerState
from litellm_resilience.supervisor.scoreboard import CAUSES, DUES, Scoreboard

prometheus_client = pytest.importorskip("prometheus_client")
metrics = pytest.importorskip("litellm_resilience.status.metrics")


def board() -> Scoreboard:
    """A board with two workers."""
    found = Scoreboard.create(multiprocessing.get_context("spawn"), 4)
    for answered in (3, 4):
        row = found.row(found.claim())
        row.state, row.request_limit = WorkerState.SERVING, 10
        Figures(row, 0.1).turned(1.0, answered, 1, Counters(pool_waits=2))
    found.row(0).lose({"box": 2})
    found.row(1).count_block("callbacks")
    found.totals.target = 2
    found.totals.boot.observe(0.3)
    return found


def sample(found: Scoreboard, name: str, **labels: str) -> float | None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(metrics.ScoreboardCollector(found))
    value: float | None = registry.get_sample_value(f"litellm_resilience_{name}", labels)
    return value


def test_counts_are_sums_over_all_workers_that_ever_were() -> None:
    found = board()
    found.release(0)
    assert sample(found, "requests_total") == 7
    assert sample(found, "session_pool_waits_total") == 4
    assert sample(found, "workers", state="serving") == 1


def test_gauges_are_of_living_workers_only() -> None:
    found = board()
    found.release(0)
    assert sample(found, "worker_requests", slot="0") is None
    assert sample(found, "worker_requests", slot="1") == 4
    assert sample(found, "worker_request_limit", slot="1") == 10


def test_histograms_are_cumulative() -> None:
    found = board()
    found.totals.boot.observe(7.0)
    assert sample(found, "worker_boot_seconds_bucket", le="0.25") == 0
    assert sample(found, "worker_boot_seconds_bucket", le="0.5") == 1
    assert sample(found, "worker_boot_seconds_bucket", le="10.0") == 2
    assert sample(found, "worker_boot_seconds_bucket", le="+Inf") == 2
    assert sample(found, "worker_boot_seconds_count") == 2
    assert sample(found, "worker_boot_seconds_sum") == pytest.approx(7.3)


def test_every_kind_is_there_from_the_start() -> None:
    """A rate over a counter that appears with its first event misses that event."""
    found = board()
    for due in DUES:
        assert sample(found, "workers_recycled_total", reason=due.value) == 0
    for cause in CAUSES:
        assert sample(found, "workers_died_total", cause=cause.value) == 0


def test_a_process_without_a_supervisor_shows_its_session() -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(metrics.ProcessCollector(Counters(recreated=3)))
    assert registry.get_sample_value("litellm_resilience_sessions_recreated_total") == 3


def test_the_documentation_lists_exactly_what_there_is() -> None:
    """With type, labels and their values."""
    found = {}
    for family in metrics.ScoreboardCollector(board()).collect():
        suffix = "_total" if family.type == "counter" else ""
        values: dict[str, set[str]] = {}
        for label, value in (pair for s in family.samples for pair in s.labels.items()):
            if label != "le":
                values.setdefault(label, set()).add(value)
        found[family.name + suffix] = (family.type, values)
    table = documented()
    kinds = {name: metric.kind for name, metric in table.items()}
    assert kinds == {name: kind for name, (kind, _) in found.items()}
    for name, metric in table.items():
        shown = found[name][1]
        assert set(metric.labels) == set(shown), name
        for label, known in metric.labels.items():
            if label == "start_method":
                assert known is not None
                assert known >= shown[label]
            elif known is not None:
                assert known == shown[label], name
