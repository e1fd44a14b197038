"""What PromQL uses of the table of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from metrics_doc import Metric, documented

if TYPE_CHECKING:
    from collections.abc import Iterator

promql_parser = pytest.importorskip("promql_parser")

TARGET = frozenset({"instance", "job"})
"""The labels that Prometheus gives to all it scrapes."""
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


def series() -> dict[str, Metric]:
    """Return what a scrape has: a histogram is three series, and one of them has `le`."""
    result: dict[str, Metric] = {}
    for name, metric in documented().items():
        for suffix in SUFFIXES.get(metric.kind, ("",)):
            bucket: dict[str, frozenset[str] | None] = {"le": None} if suffix == "_bucket" else {}
            result[name + suffix] = Metric(metric.kind, {**metric.labels, **bucket})
    return result


def faults(query: str) -> list[str]:
    """Return what a query uses that the table does not have; each is a way to see nothing."""
    parsed = promql_parser.parse(query)
    known = series()
    found: list[str] = []
    used: set[str] = set(TARGET)
    grouped: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            metric = known.get(node.name or "")
            if metric is None:
                found.append(f"no metric {node.name}")
                return
            used.update(metric.labels)
            found.extend(_matcher_faults(metric, node.matchers.matchers))
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)

    promql_parser.walk(parsed, visit)
    return found + [f"no label {label}" for label in sorted(grouped - used)]


def _matcher_faults(metric: Metric, matchers: list[Any]) -> Iterator[str]:
    for matcher in matchers:
        if matcher.name in TARGET:
            continue
        if matcher.name not in metric.labels:
            yield f"no label {matcher.name}"
            continue
        values = metric.labels[matcher.name]
        if values is not None:
            yield from (
                f"no {matcher.name} {value}"
                for value in matcher.value.split("|")
                if value not in values
            )
