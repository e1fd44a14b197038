"""What is planned: the workers, their limits and the load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

DAY = 86_400.0
FORKED_READY_SECONDS = 0.3
"""How long a worker takes that is forked from a process that holds LiteLLM."""


@dataclass(frozen=True)
class Scenario:
    """A fleet of equal pods behind a load balancer that splits the load evenly.

    Args:
        workers: workers in each pod.
        limit: requests after which a worker is recycled at the earliest.
        jitter: how many requests later at the most.
        rate: requests per second of the whole fleet.
        boot_seconds: how long a worker of plain LiteLLM is down: it imports LiteLLM anew.
        ready_seconds: how long a replacement of ours boots, while the old worker serves.
        max_restarting: how many of ours are being replaced at once, at most.
        min_lifetime: seconds before which no worker of ours is replaced.
        pods: number of pods.
    """

    workers: int
    limit: int
    jitter: int
    rate: float
    boot_seconds: float
    ready_seconds: float = FORKED_READY_SECONDS
    max_restarting: int = 1
    min_lifetime: float = 1.0
    pods: int = 1

    @property
    def pod_rate(self) -> float:
        """Requests per second of one pod."""
        return self.rate / self.pods

    @property
    def round_seconds(self) -> float:
        """Seconds in which the load recycles each worker of a pod once, on average."""
        return self.workers * (self.limit + self.jitter / 2) / self.pod_rate

    def with_jitter(self, jitter: int) -> Scenario:
        """Return the same scenario with another jitter."""
        return replace(self, jitter=jitter)

    def draw_limit(self, source: random.Random) -> int:
        """Draw one worker's limit; the same draw of the source scales with the jitter."""
        return self.limit + int(source.random() * (self.jitter + 1))
