"""The expected figures of a behaviour over a day."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from litellm_resilience.plan import deploy, resilient, upstream
from litellm_resilience.plan.scenario import DAY
from litellm_resilience.plan.statistics import Estimate, mean
from litellm_resilience.plan.timeline import collect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from litellm_resilience.plan.scenario import Scenario
    from litellm_resilience.plan.timeline import Recycle, Timeline

    Behaviour = Callable[[Scenario, random.Random], Iterator[Recycle]]

REPLICATIONS = 20
MOST_RECYCLES = 2000
LEAST_ROUNDS = 50
ROUNDING = 1e-6
"""Seconds by which two moments may differ that are the same."""
RESILIENT_CPU_SECONDS = 0.35
"""CPU time of one recycle with forked workers: measured, 0.2 to 0.4 s."""


@dataclass(frozen=True)
class Outlook:
    """Expected figures of a fleet, for a day that begins with a deploy.

    Args:
        seconds_between: seconds from one recycle to the next, of any worker.
        worker_seconds: seconds from one recycle of a worker to its next.
        recycles: recycles in a day.
        after_deploy: share of deploys after which, in some pod, the first recycles of two workers
            or more overlap.
        long_run: share of the later recycles during which another worker of the pod is down; None
            if no worker is recycled twice.
        together: share of time in which two workers or more of some pod are down.
        down_seconds: worker-seconds lost in a day.
        lost_share: share of all worker-seconds that is lost.
        silent_seconds: seconds of a day in which some pod serves nothing.
        overshoot: requests a worker serves beyond its limit; None if that is not modelled.
        cpu_seconds: CPU time that recycling takes in a day, roughly.
        most_draining: replaced workers of a pod that finish what they have, at the most; None if
            that is not modelled.
        most_workers: processes in a pod that serve, boot or drain, at the most.
    """

    seconds_between: Estimate
    worker_seconds: Estimate
    recycles: Estimate
    after_deploy: Estimate
    long_run: Estimate | None
    together: Estimate
    down_seconds: Estimate
    lost_share: Estimate
    silent_seconds: Estimate
    overshoot: Estimate | None
    cpu_seconds: float
    most_draining: int | None
    most_workers: int


def of_upstream(scenario: Scenario, seed: int) -> Outlook:
    """Return what is to be expected of plain LiteLLM.

    Args:
        scenario: what is planned.
        seed: of the simulation.
    """
    return _outlook(
        scenario,
        replications(upstream.recycles, scenario, seed),
        after_deploy=deploy.chance(scenario, seed),
        overshoot=None,
        cpu_seconds=scenario.boot_seconds,
        most_draining=None,
        spare=0,
    )


def of_resilient(scenario: Scenario, seed: int) -> Outlook:
    """Return what is to be expected of litellm-resilience.

    Args:
        scenario: what is planned.
        seed: of the simulation.
    """
    pods = replications(resilient.recycles, scenario, seed)
    drain, ready = scenario.drain_seconds, scenario.ready_seconds
    return _outlook(
        scenario,
        pods,
        after_deploy=Estimate.exact(0.0),
        overshoot=mean([_lateness(pod) for pod in pods]).map(
            lambda seconds: seconds * scenario.pod_rate / scenario.workers
        ),
        cpu_seconds=max(RESILIENT_CPU_SECONDS, scenario.ready_seconds),
        most_draining=max(_most_beside(pod, 0.0, drain) for pod in pods),
        spare=max(_most_beside(pod, ready, drain) for pod in pods),
    )


def replications(behaviour: Behaviour, scenario: Scenario, seed: int) -> list[Timeline]:
    """Simulate independent pods from a deploy on.

    Each is followed for a day: for less if there are thousands of recycles, and for more if the
    workers are not recycled several times.

    Args:
        behaviour: yields the recycles of a pod.
        scenario: what is planned.
        seed: of the whole simulation.
    """
    seconds = max(DAY, LEAST_ROUNDS * (scenario.round_seconds + scenario.boot_seconds))
    sources = random.Random(seed)
    return [
        collect(
            scenario.workers,
            behaviour(scenario, random.Random(sources.getrandbits(64))),
            seconds,
            MOST_RECYCLES,
        )
        for _ in range(REPLICATIONS)
    ]


def _outlook(
    scenario: Scenario,
    pods: Sequence[Timeline],
    *,
    after_deploy: Estimate,
    overshoot: Estimate | None,
    cpu_seconds: float,
    most_draining: int | None,
    spare: int,
) -> Outlook:
    def per_second(measure: Callable[[Timeline], float]) -> Estimate:
        return mean([measure(pod) / pod.seconds for pod in pods])

    some = partial(deploy.in_some, scenario.pods)
    between = mean([pod.seconds / max(1, len(pod.recycles)) for pod in pods])
    recycles = per_second(lambda pod: len(pod.recycles)).map(
        lambda rate: rate * DAY * scenario.pods
    )
    down = per_second(lambda pod: pod.down_seconds)
    return Outlook(
        seconds_between=between.map(lambda seconds: seconds / scenario.pods),
        worker_seconds=between.map(lambda seconds: seconds * scenario.workers),
        recycles=recycles,
        after_deploy=after_deploy,
        long_run=long_run(pods),
        together=per_second(lambda pod: pod.together_seconds).map(some),
        down_seconds=down.map(lambda share: share * DAY * scenario.pods),
        lost_share=down.map(lambda share: share / scenario.workers),
        silent_seconds=per_second(lambda pod: pod.silent_seconds).map(
            lambda share: some(share) * DAY
        ),
        overshoot=overshoot,
        cpu_seconds=recycles.value * cpu_seconds,
        most_draining=most_draining,
        most_workers=scenario.workers + spare,
    )


def long_run(pods: Sequence[Timeline]) -> Estimate | None:
    """Return the share of later recycles during which another worker is down, if there are any.

    Args:
        pods: simulated from a deploy on.
    """
    counts = [pod.together(generation=1) for pod in pods]
    shares = [met / recycles for met, recycles in counts if recycles]
    return mean(shares) if len(shares) > 1 else None


def _most_beside(pod: Timeline, before: float, after: float) -> int:
    """Return how many recycles have a moment in common, at the most.

    Args:
        pod: whose recycles are in order.
        before: seconds that each begins before its worker stops accepting.
        after: seconds that it lasts from there on.
    """
    most, oldest = 0, 0
    for number, recycle in enumerate(pod.recycles):
        while pod.recycles[oldest].stopped + after <= recycle.stopped - before + ROUNDING:
            oldest += 1
        most = max(most, number + 1 - oldest)
    return most


def _lateness(pod: Timeline) -> float:
    return sum(each.stopped - each.due for each in pod.recycles) / max(1, len(pod.recycles))
