"""`litellm-resilient --doctor`: the state of each patch on this machine."""

from __future__ import annotations

import json
import os
import textwrap
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from litellm_resilience.command import advice, database, options, workers
from litellm_resilience.plan import connections
from litellm_resilience.repairs import registry, shared_session
from litellm_resilience.repairs.base import Outcome, PatchState
from litellm_resilience.servers import interception
from litellm_resilience.status import versions
from litellm_resilience.status.table import WIDTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from litellm_resilience.command.workers import WorkerStart
    from litellm_resilience.plan.connections import Connections

COLOURS = {
    PatchState.APPLIED: "green",
    PatchState.NATIVE: "green",
    PatchState.NOT_NEEDED: "green",
    PatchState.DISABLED: "yellow",
    PatchState.INCOMPATIBLE: "red",
}


@dataclass(frozen=True)
class DatabaseCheck:
    """Whether the database has room for the workers' connections.

    Attributes:
        connections: what the workers may open.
        allowed: how many the database allows; None if it could not be asked.
        problem: what is wrong, if anything.
    """

    connections: Connections
    allowed: int | None = None
    problem: str | None = None


def run(arguments: Sequence[str] = (), *, as_json: bool) -> int:
    """Apply all patches in this process and print what became of them.

    Args:
        arguments: those of the whole command.
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
    given = _given(arguments)
    checked = _check_database(given)
    start = workers.find(given["status_socket"], preload=not given["no_preload"])
    advised = advice.of(
        given,
        database.section(given["config"], "litellm_settings"),
        knows_http2=problem is None and shared_session.knows_http2(),
    )
    show = _print_json if as_json else _print_table
    show(outcomes, problem, checked, start, advised=advised, healthy=healthy)
    return 0 if healthy else 1


def _given(arguments: Sequence[str]) -> Mapping[str, Any]:
    """Return the values of the options that the doctor needs to know."""
    command = click.Command(
        name="doctor",
        params=[
            *options.planned_options(),
            *options.serving_options(),
            options.config_option(),
            *options.front_options(),
        ],
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    return command.make_context(command.name, list(arguments)).params


def _check_database(given: Mapping[str, Any]) -> DatabaseCheck | None:
    """Compare what workers started with these options may open with what the database allows."""
    found = database.configured(given["config"])
    if found is None:
        return None
    needed = connections.of(given["num_workers"], given["max_restarting_workers"], found.pool_limit)
    try:
        allowed = database.allowed_connections(found)
    except database.AskingError as error:
        return DatabaseCheck(needed, problem=f"how many it allows could not be asked: {error}")
    short = f"the database allows {allowed}: lower general_settings.database_connection_pool_limit"
    return DatabaseCheck(needed, allowed, short if needed.ours > allowed else None)


def _print_json(
    outcomes: dict[str, Outcome],
    problem: str | None,
    checked: DatabaseCheck | None,
    start: WorkerStart,
    *,
    advised: Sequence[str],
    healthy: bool,
) -> None:
    patches = {
        name: {"state": outcome.state.value, "reason": outcome.reason}
        for name, outcome in outcomes.items()
    }
    document = {
        "healthy": healthy,
        "problem": problem,
        "versions": versions.report(),
        "patches": patches,
        "database": checked and asdict(checked),
        "workers": asdict(start),
        "advice": list(advised),
    }
    click.echo(json.dumps(document, indent=2))


def _print_table(
    outcomes: dict[str, Outcome],
    problem: str | None,
    checked: DatabaseCheck | None,
    start: WorkerStart,
    *,
    advised: Sequence[str],
    healthy: bool,
) -> None:
    for name, version in versions.report().items():
        click.echo(f"{name:<20}{version or 'not installed'}")
    click.echo()
    for name, outcome in outcomes.items():
        state = click.style(f"{outcome.state.value:<14}", fg=COLOURS[outcome.state])
        click.echo(f"{name:<20}{state}{outcome.reason}")
    by = f" (supervisor {start.supervisor})" if start.supervisor else ""
    click.echo(f"\n{_wrapped(f'workers{by}: {start.how}')}")
    if checked is not None:
        _print_database(checked)
    for each in advised:
        click.echo(f"\n{_wrapped(f'advice: {each}')}")
    if problem:
        click.secho(problem, fg="red")
    if not healthy:
        click.echo("\nNot everything that should apply can: see the lines above.")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _print_database(checked: DatabaseCheck) -> None:
    room = checked.problem or f"the database allows {checked.allowed}"
    click.echo(f"\ndatabase connections of a pod: up to {checked.connections.sum}")
    click.secho(room, fg="yellow" if checked.problem else "green")
