"""A plan against a measured run."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from litellm_resilience.plan import upstream
from litellm_resilience.plan.statistics import Estimate, single
from litellm_resilience.plan.timeline import collect

if TYPE_CHECKING:
    from litellm_resilience.plan.recording import Recording
    from litellm_resilience.plan.timeline import Timeline

SIMULATED_RUNS = 400
TOLERANCE = 0.2


@dataclass(frozen=True)
class Check:
    """One figure of a run.

    Args:
        name: what it is, with its unit.
        measured: in the run.
        planned: the mean of simulated runs as long, and the interval that holds 95 % of them.
    """

    name: str
    measured: float
    planned: Estimate

    @property
    def agrees(self) -> bool:
        """Whether the plan is within a fifth of the measurement, or its interval holds it."""
        near = abs(self.planned.value - self.measured) <= TOLERANCE * self.measured
        return near or self.planned.contains(self.measured)


def compare(recording: Recording, seed: int = 0) -> list[Check]:
    """Plan what was recorded, with boot times drawn from the recording.

    Args:
        recording: of plain LiteLLM.
        seed: of the simulation.
    """
    scenario, sources = recording.scenario, random.Random(seed)
    runs = [
        _figures(
            collect(
                scenario.workers,
                upstream.recycles(
                    scenario, random.Random(sources.getrandbits(64)), recording.boots
                ),
                recording.seconds,
            )
        )
        for _ in range(SIMULATED_RUNS)
    ]
    return [
        Check(name, measured, single([run[name] for run in runs]))
        for name, measured in _figures(recording.timeline).items()
    ]


def _figures(timeline: Timeline) -> dict[str, float]:
    met, recycles = timeline.together()
    return {
        "seconds between recycles": timeline.seconds / max(1, recycles),
        "worker-seconds down": timeline.down_seconds,
        "share of recycles with another worker down": met / max(1, recycles),
        "seconds with two or more workers down": timeline.together_seconds,
        "seconds in which nothing serves": timeline.silent_seconds,
    }
