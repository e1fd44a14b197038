"""The smallest jitter that keeps workers of plain LiteLLM from being down together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from litellm_resilience.plan import deploy, outlook, upstream
from litellm_resilience.plan.statistics import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_resilience.plan.scenario import Scenario


@dataclass(frozen=True)
class Advice:
    """What the search has found.

    Args:
        target: the chance that was not to be exceeded.
        jitter: the smallest jitter that keeps to it, or None if none up to the limit does.
        chance: what it leaves; without a jitter, what a jitter as large as the limit leaves.
        limit: without a jitter, a limit that would do with as much jitter, if one was found.
    """

    target: float
    jitter: int | None
    chance: Estimate
    limit: int | None = None


def smallest_jitter(scenario: Scenario, target: float, seed: int) -> Advice:
    """Search up to a jitter as large as the limit.

    The chance is the larger one of that after a deploy and that in the long run. A single worker
    has no other to be down with.

    Args:
        scenario: what is planned; its own jitter plays no part.
        target: the chance not to be exceeded, above 0 and below 1.
        seed: of the simulation.
    """

    def after_deploy(jitter: int) -> float:
        return deploy.most(scenario.with_jitter(jitter))

    def worst(jitter: int) -> Estimate:
        return _worst(scenario.with_jitter(jitter), target, seed)

    if scenario.workers == 1:
        return Advice(target, 0, Estimate.exact(0.0))
    largest = worst(scenario.limit)
    if largest.value > target:
        return Advice(target, None, largest, _smallest_limit(scenario, target, seed))
    # After a deploy is nearly always the worse of the two, and has a closed form.
    jitter = _first(0, scenario.limit, lambda jitter: after_deploy(jitter) <= target)
    chance = worst(jitter)
    if chance.value > target:
        jitter = _first(jitter, scenario.limit, lambda jitter: worst(jitter).value <= target)
        chance = worst(jitter)
    return Advice(target, jitter, chance)


def _worst(scenario: Scenario, target: float, seed: int) -> Estimate:
    """Return the worse chance; that in the long run is left out where the other is too much."""
    chance = Estimate.exact(deploy.most(scenario))
    if chance.value > target:
        return chance
    pods = outlook.replications(upstream.recycles, scenario, seed)
    return max(chance, outlook.long_run(pods) or chance, key=lambda estimate: estimate.value)


def _smallest_limit(scenario: Scenario, target: float, seed: int) -> int | None:
    def equal(limit: int) -> Scenario:
        return replace(scenario, limit=limit, jitter=limit)

    def passes(limit: int) -> bool:
        return deploy.most(equal(limit)) <= target

    enough = scenario.limit
    while not passes(enough):
        enough *= 2
    limit = _first(scenario.limit, enough, passes)
    return limit if _worst(equal(limit), target, seed).value <= target else None


def _first(low: int, high: int, passes: Callable[[int], bool]) -> int:
    """Return the first number from `low` on that passes, given that `high` does."""
    while low < high:
        middle = (low + high) // 2
        if passes(middle):
            high = middle
        else:
            low = middle + 1
    return high
