"""The table of metrics in `docs/metrics.md`, and what PromQL uses of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import promql_parser
from deployment import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = frozenset({"instance", "job"})
"""The labels that Prometheus gives to all it scrapes."""
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<kind>\w+) \| (?P<labels>.*?) ?\| (?P<meaning>.+) \|$")
LABEL = re.compile(r"`(?P<name>\w+)`(?: \((?P<values>[\w, ]+)\))?")


@dataclass(frozen=True)
class Metric:
    """One row.

    Args:
        kind: gauge, counter or histogram.
        labels: each with its values, where they are known beforehand.
    """

    kind: str
    labels: dict[str, frozenset[str] | None]


def documented() -> dict[str, Metric]:
    """Return the table by the names of the metrics."""
    text = (PROJECT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [found for line in text.splitlines() if (found := ROW.match(line))]
    return {row["name"]: Metric(row["kind"], dict(_labels(row["labels"]))) for row in rows}


def _labels(cell: str) -> Iterator[tuple[str, frozenset[str] | None]]:
    for found in LABEL.finditer(cell):
        values = found["values"]
        yield found["name"], frozenset(values.split(", ")) if values else None


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
