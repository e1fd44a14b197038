"""The first round after a simultaneous start, which needs no simulation."""

from __future__ import annotations

import math


def both_down_chance(workers: int, jitter: int, rate: float, boot_seconds: float) -> float:
    """Return the chance that two workers or more of a pod are down together in the first round.

    With requests split evenly, all start together and serve equal shares of the load, so they stop
    in the order of their draws. When one has stopped, each of the others gets rate / (workers - 1),
    and the next stops before the first is back if it is fewer than rate x boot_seconds /
    (workers - 1) requests behind. So none are down together if all gaps between neighbouring draws,
    uniform on 0 … jitter, are at least that wide; such draws are counted as combinations of what is
    left between the gaps.

    It is exact while no replacement reaches its own limit within the first round, which two workers
    and any jitter up to the limit ensure.

    Args:
        workers: of the pod.
        jitter: requests.
        rate: requests per second of the pod.
        boot_seconds: how long a worker is down.
    """
    if workers == 1:
        return 0.0
    draws = jitter + 1
    gap = math.ceil(rate * boot_seconds / (workers - 1))
    left = draws - (workers - 1) * (gap - 1)
    if left < workers:
        return 1.0
    apart = math.prod((left - taken) / draws for taken in range(workers))
    return 1.0 - apart
