"""When the workers of a pod were recycled, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Recycle:
    """One worker's end and its replacement; times in seconds since the deploy.

    Args:
        generation: 0 for a worker that the deploy started.
        due: when it reached its limit.
        stopped: when it accepted no more requests.
        resumed: when its replacement served.
    """

    generation: int
    due: float
    stopped: float
    resumed: float


@dataclass(frozen=True)
class Timeline:
    """The recycles of one pod.

    Args:
        workers: number of workers.
        seconds: how long the pod was watched, from a moment on at which all workers served.
        recycles: in the order in which the workers stopped.
    """

    workers: int
    seconds: float
    recycles: tuple[Recycle, ...]

    @cached_property
    def capacity(self) -> tuple[tuple[float, int], ...]:
        """Serving workers as steps: from when on, and how many."""
        changes: dict[float, int] = {0.0: self.workers}
        for recycle in self.recycles:
            for moment, change in ((recycle.stopped, -1), (recycle.resumed, 1)):
                if moment < self.seconds:
                    changes[moment] = changes.get(moment, 0) + change
        moments = sorted(changes)
        return tuple(zip(moments, accumulate(changes[moment] for moment in moments), strict=True))

    def seconds_at_most(self, serving: int) -> float:
        """Return how long so many workers, or fewer, served.

        Args:
            serving: number of workers.
        """
        ends = [*self.capacity, (self.seconds, 0)]
        return sum(
            after - moment for (moment, count), (after, _) in pairwise(ends) if count <= serving
        )

    @property
    def down_seconds(self) -> float:
        """Seconds that the workers were down, summed over all of them."""
        return sum(
            min(recycle.resumed, self.seconds) - recycle.stopped
            for recycle in self.recycles
            if recycle.stopped < self.seconds
        )

    @property
    def silent_seconds(self) -> float:
        """Seconds in which no worker served."""
        return self.seconds_at_most(0)

    @property
    def together_seconds(self) -> float:
        """Seconds in which two workers or more were down."""
        return self.seconds_at_most(self.workers - 2)

    def together(self, generation: int = 0) -> tuple[int, int]:
        """Count the recycles during which another worker was down, and all of them.

        Args:
            generation: leave out workers of earlier generations.
        """
        latest = float("-inf")
        met: list[bool] = []
        for number, recycle in enumerate(self.recycles):
            following = self.recycles[number + 1 : number + 2]
            before = recycle.stopped < latest
            after = any(other.stopped < recycle.resumed for other in following)
            latest = max(latest, recycle.resumed)
            met.append(before or after)
        counted = [
            one
            for one, recycle in zip(met, self.recycles, strict=True)
            if recycle.generation >= generation
        ]
        return sum(counted), len(counted)


def collect(
    workers: int, recycles: Iterable[Recycle], seconds: float, most: int | None = None
) -> Timeline:
    """Watch a pod for a while.

    Args:
        workers: number of workers.
        recycles: its recycles, which may go on for ever.
        seconds: for how long at the most.
        most: end with so many recycles.
    """
    seen: list[Recycle] = []
    for recycle in recycles:
        if recycle.stopped >= seconds:
            break
        if most is not None and len(seen) == most:
            seconds = recycle.stopped
            break
        seen.append(recycle)
    return Timeline(workers, seconds, tuple(seen))
