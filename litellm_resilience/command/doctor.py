"""`litellm-resilient --doctor`: the state of each patch on this machine."""

from __future__ import annotations

import json
import os

import click

from litellm_resilience.repairs import registry
from litellm_resilience.repairs.base import Outcome, PatchState
from litellm_resilience.servers import interception
from litellm_resilience.status import versions

COLOURS = {
    PatchState.APPLIED: "green",
    PatchState.NATIVE: "green",
    PatchState.NOT_NEEDED: "green",
    PatchState.DISABLED: "yellow",
    PatchState.INCOMPATIBLE: "red",
}


def run(*, as_json: bool) -> int:
    """Apply all patches in this process and print what became of them.

    Args:
        as_json: print one JSON object instead of a table.

    Returns:
        The exit code: 1 if LiteLLM's proxy cannot be imported or a patch that should apply
        cannot, else 0.
    """
    # Nothing is served: LiteLLM need not fetch its price list over the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    problem = None
    outcomes: dict[str, Outcome] = {}
    try:
        outcomes = {**registry.install(), **interception.outcomes()}
    except ImportError as error:
        problem = f"LiteLLM's proxy cannot be imported: {error}"
    healthy = problem is None and not any(
        outcome.state is PatchState.INCOMPATIBLE for outcome in outcomes.values()
    )
    (_print_json if as_json else _print_table)(outcomes, problem, healthy=healthy)
    return 0 if healthy else 1


def _print_json(outcomes: dict[str, Outcome], problem: str | None, *, healthy: bool) -> None:
    patches = {
        name: {"state": outcome.state.value, "reason": outcome.reason}
        for name, outcome in outcomes.items()
    }
    document = {
        "healthy": healthy,
        "problem": problem,
        "versions": versions.report(),
        "patches": patches,
    }
    click.echo(json.dumps(document, indent=2))


def _print_table(outcomes: dict[str, Outcome], problem: str | None, *, healthy: bool) -> None:
    for name, version in versions.report().items():
        click.echo(f"{name:<20}{version or 'not installed'}")
    click.echo()
    for name, outcome in outcomes.items():
        state = click.style(f"{outcome.state.value:<14}", fg=COLOURS[outcome.state])
        click.echo(f"{name:<20}{state}{outcome.reason}")
    if problem:
        click.secho(problem, fg="red")
    if not healthy:
        click.echo("\nNot everything that should apply can: see the lines above.")
