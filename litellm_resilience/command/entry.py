"""The command `litellm-resilient`.

Our own options are checked, and questions that need no LiteLLM are answered, before LiteLLM is
imported, which takes seconds. The module must stay cheap to import: every worker that uvicorn
spawns imports it again as its main module.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from litellm_resilience.command import early, options, process_one
from litellm_resilience.status import versions
from litellm_resilience.supervisor import service_manager

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PROGRAM = "litellm-resilient"
ARGUMENTS = "litellm_resilience.arguments"
DISABLE_VARIABLE = "LITELLM_RESILIENCE_DISABLE"
MODES = ("doctor", "status", "ctl", "plan")
"""The options that ask or tell something instead of serving."""


class EntryCommand(click.Command):
    """Parses our own options only, and passes all arguments on to LiteLLM's command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments as they were given, then check ours."""
        ctx.meta[ARGUMENTS] = list(args)
        with early.one_sentence():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Do what was asked for."""
        with early.one_sentence():
            return super().invoke(ctx)


def _dispatch(
    *,
    version: bool,
    watch: bool,
    watch_config: bool,
    as_json: bool,
    status_socket: Path | None,
    resilience_metrics_port: int | None,
    resilience_health_port: int | None,
    resilience_drain_delay: float | None,
    **others: Any,
) -> None:
    context = click.get_current_context()
    if version:
        _print_versions()
        return
    mode = _mode(**{name: others[name] for name in MODES})
    if as_json and mode is None:
        raise click.UsageError("--json goes with --doctor, --status, --ctl or --plan.")
    if watch and mode != "status":
        raise click.UsageError("--watch goes with --status.")
    if mode == "plan":
        _plan(context.meta[ARGUMENTS], context)
        return
    _refuse_planning_options(context)
    if mode == "status":
        from litellm_resilience.command import status as status_command

        port = options.given_port(context.meta[ARGUMENTS])
        context.exit(status_command.run(status_socket, port, as_json=as_json, watch=watch))
    if mode == "ctl":
        from litellm_resilience.command import ctl

        ctl.command().main(args=context.meta[ARGUMENTS], prog_name=context.info_name)
    _check_environment()
    _check_ports(resilience_metrics_port, resilience_health_port, resilience_drain_delay)
    if watch_config:
        options.watched_config(options.given_config(context.meta[ARGUMENTS]))
    if mode == "doctor":
        from litellm_resilience.command import doctor as doctor_module

        context.exit(doctor_module.run(context.meta[ARGUMENTS], as_json=as_json))
    _run_litellm(context.meta[ARGUMENTS], context)


def _mode(**asked: object) -> str | None:
    """Return which question was asked, if any was."""
    modes = [name for name, given in asked.items() if given]
    if len(modes) > 1:
        raise click.UsageError(f"{' and '.join(f'--{mode}' for mode in modes)} exclude each other.")
    return modes[0] if modes else None


def _refuse_planning_options(context: click.Context) -> None:
    for option in options.planning_options():
        if context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} goes with --plan.")


def _plan(arguments: Sequence[str], context: click.Context) -> None:
    from litellm_resilience.command.plan import command

    command().main(args=list(arguments), prog_name=context.info_name)


def _print_versions() -> None:
    found = versions.report()
    for name in ("litellm-resilience", "litellm", "uvicorn"):
        click.echo(f"{name} {found[name] or 'not installed'}")


def _check_environment() -> None:
    try:
        service_manager.given()
        if os.environ.get(DISABLE_VARIABLE):
            from litellm_resilience.repairs import registry

            registry.disabled_patches()
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _check_ports(metrics: int | None, health: int | None, drain_delay: float | None) -> None:
    if metrics is None and health is None and drain_delay is not None:
        raise click.UsageError("--resilience_drain_delay needs --resilience_health_port.")
    if metrics is not None and metrics == health:
        raise click.UsageError(
            "--resilience_health_port must not be --resilience_metrics_port, which answers too."
        )
    if metrics is not None and importlib.util.find_spec("prometheus_client") is None:
        raise click.UsageError(
            "--resilience_metrics_port needs prometheus_client. Install it with "
            "`pip install prometheus-client`."
        )


def _run_litellm(arguments: Sequence[str], context: click.Context) -> None:
    early.check(arguments, context.info_name)
    from litellm_resilience.servers import inheritance
    from litellm_resilience.supervisor import exit_hooks
    from litellm_resilience.supervisor.environment import ImportReads

    exit_hooks.watch()
    inheritance.watch()
    with ImportReads() as reads:
        try:
            from litellm_resilience.command.extended import extended_command

            command = extended_command()
        except ImportError as error:
            raise early.RefusedError(
                f"LiteLLM's proxy cannot be imported: {error}. Install what it needs with "
                "`pip install 'litellm[proxy]'`."
            ) from error
        command.main(args=list(arguments), prog_name=context.info_name, obj=reads)


cli = EntryCommand(
    name=PROGRAM,
    params=[
        *options.serving_options(),
        *options.inspection_options(),
        *options.planning_options(),
        options.version_option(),
    ],
    callback=_dispatch,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)


def main() -> None:
    """Run the command with the process's arguments."""
    process_one.stand_in()
    from litellm_resilience.supervisor import takeover

    try:
        takeover.begin()
    except ValueError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    try:
        cli.main(args=sys.argv[1:], prog_name=PROGRAM)
    finally:
        if "litellm_resilience.supervisor.upgrade" in sys.modules:
            from litellm_resilience.supervisor import upgrade

            upgrade.stand_by()
