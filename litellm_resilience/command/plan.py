"""The command behind `--plan`."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from litellm_resilience.command import database, options
from litellm_resilience.plan import (
    boot,
    chart,
    connections,
    outlook,
    picture,
    report,
    search,
    terminal,
)
from litellm_resilience.plan.scenario import FORKED_READY_SECONDS, Scenario
from litellm_resilience.supervisor.policy import Settings

if TYPE_CHECKING:
    from pathlib import Path


def command() -> click.Command:
    """Return a command that plans.

    It takes the arguments of the whole command, and ignores what a plan does not depend on.
    """
    return click.Command(
        name="plan",
        params=[
            *options.planned_options(),
            *options.serving_options(),
            *options.planning_options(),
            options.json_option(),
            options.config_option(),
        ],
        callback=_run,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def _run(
    *,
    num_workers: int,
    max_requests_before_restart: int | None,
    max_requests_before_restart_jitter: int | None,
    max_requests_jitter: int | None,
    rps: float | None,
    boot_seconds: float | None,
    **others: Any,
) -> None:
    if max_requests_before_restart is None:
        raise click.UsageError("--plan needs --max_requests_before_restart.")
    if rps is None:
        raise click.UsageError("--plan needs --rps.")
    jitter = options.one_jitter(max_requests_jitter, max_requests_before_restart_jitter)
    drawing = _drawing(others["plot"])
    boot_source = "given" if boot_seconds is not None else "measured here"
    boot_seconds = boot_seconds or _measured_boot()
    scenario = Scenario(
        workers=num_workers,
        limit=max_requests_before_restart,
        jitter=jitter or 0,
        rate=rps,
        boot_seconds=boot_seconds,
        ready_seconds=boot_seconds if others["no_preload"] else FORKED_READY_SECONDS,
        max_restarting=others["max_restarting_workers"],
        drain_seconds=others["drain_seconds"],
        max_draining=Settings(max_draining=others["max_draining_workers"]).most_draining(
            num_workers
        ),
        min_lifetime=others["min_worker_lifetime"],
        pods=others["pods"],
    )
    seed = others["seed"]
    found = database.configured(others["config"])
    ours = outlook.of_resilient(scenario, seed)
    plan = report.Plan(
        scenario,
        boot_source,
        seed,
        outlook.of_upstream(scenario, seed),
        ours,
        search.smallest_jitter(scenario, others["target"], seed),
        None
        if found is None
        else connections.of(
            num_workers, scenario.max_restarting, found.pool_limit, ours.most_draining
        ),
    )
    _show(plan, drawing, as_json=others["as_json"])


def _drawing(path: Path | None) -> Path | None:
    """Check that a picture can be drawn before anything is computed for it."""
    if path is not None:
        try:
            picture.load()
        except ImportError as error:
            raise click.UsageError("--plot needs matplotlib: pip install matplotlib") from error
    return path


def _measured_boot() -> float:
    click.echo("Measuring how long LiteLLM takes to import ...", err=True)
    try:
        return boot.measured_seconds()
    except boot.BootError as error:
        raise click.ClickException(f"{error}. Give the time with --boot_seconds.") from error


def _show(plan: report.Plan, drawing: Path | None, *, as_json: bool) -> None:
    drawn = chart.of(plan.scenario, plan.seed)
    if as_json:
        click.echo(json.dumps(report.as_json(plan), indent=2))
    else:
        click.echo(report.as_text(plan))
    if drawing is not None:
        try:
            picture.save(drawn, report.heading(plan)[0], drawing)
        except OSError as error:
            raise click.ClickException(f"{drawing} cannot be written: {error}") from error
        click.echo(f"Plot written to {drawing}", err=True)
    elif not as_json:
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        width = shutil.get_terminal_size().columns
        click.echo("\n" + terminal.plot(drawn, width, encoding))
