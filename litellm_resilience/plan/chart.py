"""The data of both plots: the serving workers of one pod after a deploy, per behaviour."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from litellm_resilience.plan import resilient, upstream
from litellm_resilience.plan.timeline import Timeline, collect

if TYPE_CHECKING:
    from litellm_resilience.plan.scenario import Scenario

ROUNDS_SHOWN = 4
UPSTREAM = "litellm"
OURS = "litellm-resilient"


@dataclass(frozen=True)
class Chart:
    """One pod under both behaviours, over the same time.

    Args:
        upstream: plain LiteLLM.
        ours: litellm-resilience.
    """

    upstream: Timeline
    ours: Timeline

    @property
    def named(self) -> tuple[tuple[str, Timeline], ...]:
        """The timelines with their names, upstream first."""
        return ((UPSTREAM, self.upstream), (OURS, self.ours))


def of(scenario: Scenario, seed: int) -> Chart:
    """Simulate one pod for a few rounds.

    Args:
        scenario: what is planned.
        seed: of the simulation.
    """
    seconds = ROUNDS_SHOWN * (scenario.round_seconds + scenario.boot_seconds)
    return Chart(
        *(
            collect(scenario.workers, behaviour(scenario, random.Random(seed)), seconds)
            for behaviour in (upstream.recycles, resilient.recycles)
        )
    )
