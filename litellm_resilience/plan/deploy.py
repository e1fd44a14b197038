"""The chance that workers are down together after a deploy, which starts them all at once."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from litellm_resilience.plan import closed_form, upstream
from litellm_resilience.plan.statistics import Estimate, proportion

if TYPE_CHECKING:
    from litellm_resilience.plan.scenario import Scenario

DEPLOYS = 2000
"""Simulated deploys, where there is no closed form."""
PAIR = 2


def fleet_chance(scenario: Scenario, seed: int) -> Estimate:
    """Return the chance that two workers or more of some pod of plain LiteLLM are down together.

    Pods draw independently.

    Args:
        scenario: what is planned.
        seed: of the simulation, which only a jitter above the limit takes.
    """
    exact = scenario.workers <= PAIR or scenario.jitter <= scenario.limit
    chance = _exact(scenario) if exact else simulated(scenario, seed)
    return chance.map(partial(in_some, scenario.pods))


def _exact(scenario: Scenario) -> Estimate:
    return Estimate.exact(
        closed_form.both_down_chance(
            scenario.workers, scenario.jitter, scenario.pod_rate, scenario.boot_seconds
        )
    )


def simulated(scenario: Scenario, seed: int) -> Estimate:
    """Estimate the chance for one pod from many deploys.

    Args:
        scenario: what is planned.
        seed: of the simulation.
    """
    source = random.Random(seed)
    return proportion(sum(both_down(scenario, source) for _ in range(DEPLOYS)), DEPLOYS)


def both_down(scenario: Scenario, source: random.Random) -> bool:
    """Simulate one pod of plain LiteLLM until each worker of the deploy has stopped.

    Args:
        scenario: what is planned.
        source: draws the limits.

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
