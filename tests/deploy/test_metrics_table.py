"""The reader of the table, which the tests of rules and dashboard rely on."""

from __future__ import annotations

import pytest
from metrics_doc import documented
from metrics_table import faults


def test_the_table_is_read_whole() -> None:
    table = documented()
    assert len(table) == 23
    assert {metric.kind for metric in table.values()} == {"gauge", "counter", "histogram"}
    assert table["litellm_resilience_workers_died_total"].labels == {
        "cause": frozenset({"exit", "signal", "hang", "drain_timeout"})
    }
    assert table["litellm_resilience_worker_requests"].labels == {"slot": None}
    assert set(table["litellm_resilience_info"].labels) == {
        "version",
        "litellm",
        "uvicorn",
        "start_method",
    }


def test_names_end_as_prometheus_wants_them() -> None:
    for name, metric in documented().items():
        assert name.startswith("litellm_resilience_")
        assert name.endswith("_total") == (metric.kind == "counter")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("litellm_resilience_workers", []),
        ("rate(litellm_resilience_worker_boot_seconds_bucket[5m])", []),
        ("litellm_resilience_worker_boot_seconds", ["no metric"]),
        ("litellm_resilience_worker", ["no metric"]),
        ('litellm_resilience_workers{slot="1"}', ["no label slot"]),
        ('litellm_resilience_workers{state=~"serving|gone"}', ["no state gone"]),
        ("sum by (reason) (litellm_resilience_workers)", ["no label reason"]),
        ("sum without (slot) (litellm_resilience_worker_requests)", []),
    ],
)
def test_what_the_table_does_not_have_is_found(query: str, expected: list[str]) -> None:
    found = faults(query)
    assert len(found) == len(expected)
    assert all(fault.startswith(start) for fault, start in zip(found, expected, strict=True))


def test_what_is_no_promql_is_refused() -> None:
    with pytest.raises(ValueError, match="unexpected"):
        faults("rate(litellm_resilience_requests_total[5m)")
