"""The table of metrics in `docs/metrics.md`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployment import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

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
