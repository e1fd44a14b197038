"""The chance that workers are down together after a deploy, which starts them all at once."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from litellm_resilience.plan import closed_form, upstream
from litellm_resilience.plan.statistics import Estimate, proportion

if TYPE_CHECKING:
    from litellm_resilience.plan.scenario import Scenario

SIMULATED_DEPLOYS = 2000


def chance(scenario: Scenario, seed: int) -> Estimate:
    """Estimate the chance that two workers or more of some pod are down together.

    Args:
        scenario: what is planned.
        seed: of the simulation.
    """
    if scenario.workers == 1:
        return Estimate.exact(0.0)
    source = random.Random(seed)
    hits = sum(both_down(scenario, source) for _ in range(SIMULATED_DEPLOYS))
    return proportion(hits, SIMULATED_DEPLOYS).map(partial(in_some, scenario.pods))


def most(scenario: Scenario) -> float:
    """Return the chance if requests are split evenly: the closed form.

    A random split only moves workers further apart on average: for two of them, whose distance is
    most likely to be small, the chance is never above this one.

    Args:
        scenario: what is planned, with a jitter that does not exceed the limit.
    """
    return in_some(
        scenario.pods,
        closed_form.both_down_chance(
            scenario.workers, scenario.jitter, scenario.pod_rate, scenario.boot_seconds
        ),
    )


def both_down(scenario: Scenario, source: random.Random) -> bool:
    """Simulate one pod of plain LiteLLM until each worker of the deploy has stopped.

    Args:
        scenario: what is planned.
        source: draws the limits, and who gets which request.

    Returns:
        Whether two of these workers or more were down together.
    """
    back = float("-inf")
    left = scenario.workers
    for recycle in upstream.recycles(scenario, source):
        if recycle.generation == 0:
            if recycle.stopped < back:
                return True
            back = recycle.resumed
            left -= 1
            if not left:
                break
    return False


def in_some(pods: int, chance: float) -> float:
    """Return the chance that what happens to each pod independently happens to some.

    Args:
        pods: number of pods.
        chance: of each.
    """
    return 1.0 - (1.0 - chance) ** pods
