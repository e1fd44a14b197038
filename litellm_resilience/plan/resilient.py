"""litellm-resilience: a replacement serves first, then the old worker retires.

All workers serve at any time, so each reaches its limit after a time of its own, and waits for one
of the places among those being replaced, and for one among those that drain.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from litellm_resilience.plan.timeline import Recycle

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from litellm_resilience.plan.scenario import Scenario


def recycles(scenario: Scenario, source: random.Random) -> Iterator[Recycle]:
    """Yield the recycles of one pod from a deploy on, for ever.

    Args:
        scenario: what is planned.
        source: draws the limits, and who gets which request.
    """
    seconds_per_request = scenario.workers / scenario.pod_rate

    def candidate(born: float, generation: int) -> tuple[float, float, int]:
        due = born + scenario.draw_share(source) * seconds_per_request
        return max(due, born + scenario.min_lifetime), due, generation

    waiting = [candidate(0.0, 0) for _ in range(scenario.workers)]
    heapify(waiting)
    places = [0.0] * min(scenario.max_restarting, scenario.workers)
    drains = [0.0] * scenario.max_draining
    while True:
        eligible, due, generation = heappop(waiting)
        ready = max(eligible, heappop(places), heappop(drains)) + scenario.ready_seconds
        heappush(places, ready)
        heappush(drains, ready + scenario.drain_seconds)
        heappush(waiting, candidate(ready, generation + 1))
        yield Recycle(generation, due, ready, ready)
