"""Look at a proxy from outside: at its endpoints, as load balancers do, and at its status."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any

from litellm_resilience.demo.lifetime import Repeating

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INTERVAL = 0.1
"""Seconds between two looks."""
TIMEOUT = 20.0

Samples = dict[tuple[str, str], float]
"""Values by name and labels."""


def settled(workers: Sequence[Mapping[str, Any]], count: int) -> list[int]:
    """Return the process ids of the workers if so many serve and there are no others, else none.

    Args:
        workers: as ``--status --json`` lists them.
        count: how many there should be.
    """
    serving = [each["pid"] for each in workers if each["state"] == "serving"]
    return serving if len(serving) == len(workers) == count else []


class Watcher(Repeating):
    """Gets a page in a thread until stopped.

    Args:
        url: the page.
        headers: of the request.

    Attributes:
        looks: how often it was there.
        faults: what was wrong with it, from the first time on that it was there.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(INTERVAL)
        self._request = urllib.request.Request(url, headers=dict(headers or {}))
        self.looks = 0
        self.faults: list[Any] = []

    def look(self) -> None:
        """Get the page once."""
        try:
            with urllib.request.urlopen(self._request, timeout=TIMEOUT) as reply:
                page = reply.read().decode()
        except OSError as error:
            if self.looks:
                self.faults.append(error)
            return
        self.faults += self.examine(page)
        self.looks += 1

    def examine(self, page: str) -> list[Any]:
        """Return what is wrong with a page that was there."""
        del page
        return []


class Scraper(Watcher):
    """Scrapes Prometheus metrics; a counter that goes down or away is a fault.

    Attributes:
        last: all samples of counters and histograms as they were last.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(url, headers)
        self.last: Samples = {}

    def examine(self, page: str) -> list[Any]:
        """Compare with the last scrape."""
        from prometheus_client.parser import text_string_to_metric_families

        samples = {
            (sample.name, str(sample.labels)): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if family.type in {"counter", "histogram"} and not sample.name.endswith("_created")
        }
        before, self.last = self.last, samples
        return [
            (name, value, samples.get(name))
            for name, value in before.items()
            if samples.get(name, -1.0) < value
        ]

    def total(self, name: str) -> float:
        """Return the sum of a metric over all labels."""
        return sum(value for (found, _), value in self.last.items() if found == name)
