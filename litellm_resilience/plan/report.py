"""A plan as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from litellm_resilience.plan import chart, wording
from litellm_resilience.plan.outlook import (
    LEAST_ROUNDS,
    MOST_RECYCLES,
    REPLICATIONS,
    RESILIENT_CPU_SECONDS,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_resilience.plan.connections import Connections
    from litellm_resilience.plan.outlook import Outlook
    from litellm_resilience.plan.scenario import Scenario
    from litellm_resilience.plan.search import Advice
    from litellm_resilience.plan.statistics import Estimate

DEFINITIONS = f"""\
after a deploy: share of deploys after which the first recycles of two workers overlap.
later: share of all other recycles during which another worker of the pod is down.
In brackets: 95 % interval of the mean over {REPLICATIONS} simulations of a day that begins with a
deploy (of {MOST_RECYCLES} recycles if a day has more, of {LEAST_ROUNDS} rounds if it has fewer)."""


@dataclass(frozen=True)
class Plan:
    """What is said of a scenario.

    Args:
        scenario: what was planned.
        boot_source: where its boot time comes from, in a word.
        seed: of the simulation.
        upstream: plain LiteLLM.
        ours: litellm-resilience.
        advice: a jitter for plain LiteLLM.
        database_connections: of each pod, if a database is known.
    """

    scenario: Scenario
    boot_source: str
    seed: int
    upstream: Outlook
    ours: Outlook
    advice: Advice
    database_connections: Connections | None = None


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values; each figure is a value with its interval.

    Args:
        plan: what to say.
    """
    return asdict(plan)


def as_text(plan: Plan) -> str:
    """Return the plan as a table, with the meaning of its rows and what it assumes.

    Args:
        plan: what to say.
    """
    rows = [("", chart.UPSTREAM, chart.OURS), *_rows(plan)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    table = [
        f"{name:<{widths[0]}}  {theirs:<{widths[1]}}  {ours}".rstrip()
        for name, theirs, ours in rows
    ]
    return "\n".join(
        [*heading(plan), "", *table, "", *_advice(plan), "", DEFINITIONS, *_notes(plan)]
    )


def heading(plan: Plan) -> list[str]:
    """Say in two lines what was planned.

    Args:
        plan: what to say.
    """
    scenario = plan.scenario
    pods = f"{scenario.pods} pods of " if scenario.pods > 1 else ""
    workers = f"{scenario.workers} worker{'s' if scenario.workers > 1 else ''}"
    limit = f"limit {scenario.limit} + 0 to {scenario.jitter} requests"
    boot = f"a worker boots in {scenario.boot_seconds:.3g} s ({plan.boot_source})"
    return [
        f"{pods}{workers}, {limit}, {scenario.rate:g} requests per second in all",
        f"{boot}, a replacement of {chart.OURS} in {scenario.ready_seconds:.3g} s",
    ]


def _rows(plan: Plan) -> list[tuple[str, str, str]]:
    def row(name: str, say: Callable[[Outlook], str]) -> tuple[str, str, str]:
        return name, say(plan.upstream), say(plan.ours)

    most_cpu = max(plan.upstream.cpu_seconds, plan.ours.cpu_seconds)
    some = "in some pod, " if plan.scenario.pods > 1 else ""
    return [
        row("time between recycles", lambda one: _interval(one.seconds_between, wording.seconds)),
        row("  of the same worker", lambda one: _interval(one.worker_seconds, wording.seconds)),
        row("recycles per day", lambda one: _interval(one.recycles, wording.number)),
        (f"{some}two or more down together", "", ""),
        row("  after a deploy", lambda one: _chance(one.after_deploy)),
        row("  later", lambda one: _chance(one.long_run) if one.long_run else "-"),
        row("  share of time", lambda one: _chance(one.together)),
        row("lost capacity", lambda one: _chance(one.lost_share, "none")),
        row("  worker-seconds per day", lambda one: _interval(one.down_seconds, wording.number)),
        row(
            f"{some}nothing serves, seconds per day",
            lambda one: _interval(one.silent_seconds, wording.number),
        ),
        row("requests beyond the limit", lambda one: _known(one.overshoot, wording.number)),
        row("CPU time per day, about", lambda one: wording.seconds(one.cpu_seconds, most_cpu)),
        row("workers at once in a pod", lambda one: str(one.most_workers)),
        row("  of them draining", lambda one: str(one.most_draining or "-")),
        *_connections(plan.database_connections),
    ]


def _connections(found: Connections | None) -> list[tuple[str, str, str]]:
    if found is None:
        return []
    return [("database connections, up to", str(found.upstream), str(found.ours))]


def _advice(plan: Plan) -> list[str]:
    advice = plan.advice
    if plan.scenario.workers == 1:
        return [f"One worker: each recycle of {chart.UPSTREAM} is an outage, whatever the jitter."]
    target = wording.percent(advice.target)
    chance = _chance(advice.chance)
    who = f"the chance for {chart.UPSTREAM} at {target}"
    if advice.jitter is not None:
        found = [f"A jitter of {advice.jitter} keeps {who} or less: {chance}."]
    else:
        most = plan.scenario.limit
        found = [f"No jitter up to the limit keeps {who}: with {most} it is still {chance}."]
        if advice.limit is not None:
            found.append(f"That takes a limit of {advice.limit}, with as much jitter.")
    return [*found, f"{chart.OURS} needs none."]


def _notes(plan: Plan) -> list[str]:
    scenario = plan.scenario
    cpu = max(RESILIENT_CPU_SECONDS, scenario.ready_seconds)
    notes = [f"CPU time: {chart.UPSTREAM} spends its boot time, {chart.OURS} {cpu:.3g} s."]
    if scenario.workers == 1:
        notes.append(
            f"{chart.UPSTREAM} with one worker ends at its limit. The figures are for a service "
            "that\nis restarted at once, as by Kubernetes."
        )
    if plan.database_connections is not None:
        notes.append(f"Database connections of a pod: up to {plan.database_connections.sum}.")
    notes.append(
        f"A worker of {chart.OURS} drains for up to {scenario.drain_seconds:.3g} s: give the time "
        "of your\nlongest streams with --drain_seconds."
    )
    replaced = min(scenario.max_restarting, scenario.workers) / scenario.ready_seconds
    drained = scenario.max_draining / (scenario.ready_seconds + scenario.drain_seconds)
    for possible, what, option in (
        (replaced, "replacements boot", "--max_restarting_workers"),
        (drained, "workers drain", "--max_draining_workers"),
    ):
        if scenario.workers / scenario.round_seconds >= possible:
            notes.append(
                f"Recycles are due faster than {what}: workers of {chart.OURS} exceed\n"
                f"their limit as shown, and serve on. Raise the limit, or {option}."
            )
    return notes


def _chance(estimate: Estimate, nothing: str = "never") -> str:
    return nothing if estimate.high == 0 else _interval(estimate, wording.percent)


def _known(estimate: Estimate | None, say: Callable[[float], str]) -> str:
    return "-" if estimate is None else _interval(estimate, say)


def _interval(estimate: Estimate, say: Callable[[float], str]) -> str:
    value, low, high = say(estimate.value), say(estimate.low), say(estimate.high)
    return value if low == high else f"{value} ({low} to {high})"
