"""Plain LiteLLM under uvicorn: a worker ends at its limit, then its replacement boots.

The load is shared by the workers that serve at the moment, so one common count of requests per
serving worker drives them all: a worker stops when the count has grown by what it has drawn.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from litellm_resilience.plan.timeline import Recycle

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from litellm_resilience.plan.scenario import Scenario


def recycles(
    scenario: Scenario, source: random.Random, boots: Sequence[float] = ()
) -> Iterator[Recycle]:
    """Yield the recycles of one pod from a deploy on, for ever.

    While no worker serves, requests wait in the socket's backlog, and the first worker that is back
    accepts them all. The only worker of a pod has no such backlog: LiteLLM's process ends with it.

    Args:
        scenario: what is planned.
        source: draws the limits, and who gets which request.
        boots: seconds that boots have taken; each is drawn from these instead of the scenario's.
    """
    rate = scenario.pod_rate
    serving = [(scenario.draw_share(source), 0) for _ in range(scenario.workers)]
    heapify(serving)
    booting: list[tuple[float, int]] = []
    now = count = waiting = 0.0
    while True:
        stops = now + (serving[0][0] - count) * len(serving) / rate if serving else math.inf
        if booting and booting[0][0] <= stops:
            ready, generation = heappop(booting)
            if serving:
                count += (ready - now) * rate / len(serving)
            elif scenario.workers > 1:
                waiting = (ready - now) * rate
            now = ready
            # A worker whose backlog exceeds its limit answers it, and stops.
            left = max(0.0, scenario.draw_share(source) - waiting)
            heappush(serving, (count + left, generation))
            waiting = 0.0
        else:
            count, generation = heappop(serving)
            now = stops
            ready = now + (source.choice(boots) if boots else scenario.boot_seconds)
            heappush(booting, (ready, generation + 1))
            yield Recycle(generation, now, now, ready)
