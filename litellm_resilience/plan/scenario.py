"""What is planned: the workers, their limits and the load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

DAY = 86_400.0
FORKED_READY_SECONDS = 0.3
"""How long a worker takes that is forked from a process that holds LiteLLM."""
DRAIN_SECONDS = 5.0
"""How long a worker drains at most that has nothing but idle connections and short requests."""


@dataclass(frozen=True)
class Scenario:
    """A fleet of equal pods behind a load balancer that gives each the same share of the load.

    Args:
        workers: workers in each pod.
        limit: requests after which a worker is recycled at the earliest.
        jitter: how many requests later at the most.
        rate: requests per second of the whole fleet.
        boot_seconds: how long a worker of plain LiteLLM is down: it imports LiteLLM anew.
        ready_seconds: how long a replacement of ours boots, while the old worker serves.
        max_restarting: how many of ours are being replaced at once, at most.
        drain_seconds: how long one of ours takes from its replacement's first request to its end.
        max_draining: how many of ours drain at once, at most.
        min_lifetime: seconds before which no worker of ours is replaced.
        pods: number of pods.
        even_split: each request goes to the next worker in turn; else to any worker that serves,
            as a socket shared by the workers has it, which sets them apart even without a jitter.
    """

    workers: int
    limit: int
    jitter: int
    rate: float
    boot_seconds: float
    ready_seconds: float = FORKED_READY_SECONDS
    max_restarting: int = 1
    drain_seconds: float = DRAIN_SECONDS
    max_draining: int = 2
    min_lifetime: float = 1.0
    pods: int = 1
    even_split: bool = False

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

    def draw_share(self, source: random.Random) -> float:
        """Draw how many requests come for each serving worker until one has reached its limit.

        Of requests that arrive at random times and go to any worker, each worker gets a Poisson
        process of its own, so this has a gamma distribution.

        Args:
            source: of the randomness.
        """
        limit = self.limit + source.randint(0, self.jitter)
        return float(limit) if self.even_split else source.gammavariate(limit, 1.0)
