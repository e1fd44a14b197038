"""LiteLLM's own command with our options added.

Nothing of LiteLLM's command is changed: this is a copy of it, with our parameters beside its own,
that runs its callback while the servers it may start are intercepted.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from litellm_resilience.command import options
from litellm_resilience.repairs import worker_end
from litellm_resilience.servers import interception
from litellm_resilience.servers.supervised import Supervision
from litellm_resilience.status.services import Visibility
from litellm_resilience.supervisor.environment import ImportReads
from litellm_resilience.supervisor.limits import Recycling
from litellm_resilience.supervisor.policy import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER_FLAGS = ("run_gunicorn", "run_hypercorn", "run_granian")


class ResilientCommand(click.Command):
    """LiteLLM's command and our options.

    Args:
        native: LiteLLM's own `run_server` command.
    """

    def __init__(self, native: click.Command) -> None:
        self._ours: Sequence[click.Option] = [
            *options.serving_options(),
            *options.inspection_options(),
            *options.planning_options(),
        ]
        self._theirs = [_renamed_version(parameter) for parameter in native.params]
        super().__init__(
            name=native.name,
            context_settings=native.context_settings,
            callback=native.callback,
            params=[*self._theirs, *self._ours],
            help=native.help,
            epilog=native.epilog,
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write LiteLLM's options, then ours in a section of their own."""
        help_option = self.get_help_option(ctx)
        theirs = [*self._theirs, *([help_option] if help_option else [])]
        for title, parameters in (("Options", theirs), (options.HELP_SECTION, self._ours)):
            records = [parameter.get_help_record(ctx) for parameter in parameters]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])

    def invoke(self, ctx: click.Context) -> Any:
        """Run LiteLLM's callback with the servers it may start intercepted."""
        jitter = _effective_jitter(ctx)
        given = [
            name
            for option in self._ours
            if (name := option.name) is not None
            and ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        ]
        ours = {option.name: ctx.params.pop(option.name, None) for option in self._ours}
        metrics_port = ours["resilience_metrics_port"]
        if metrics_port is not None and metrics_port == ctx.params.get("port"):
            raise click.UsageError("--resilience_metrics_port must not be --port.", ctx)
        os.environ[worker_end.TIMEOUT_VARIABLE] = str(ours["worker_flush_timeout"])
        chosen = next((flag for flag in SERVER_FLAGS if ctx.params.get(flag)), None)
        with interception.intercepted(jitter, chosen, _supervision(ctx, ours, given)):
            return super().invoke(ctx)


def _supervision(ctx: click.Context, ours: dict[Any, Any], given: list[str]) -> Supervision:
    return Supervision(
        settings=Settings(
            max_restarting=ours["max_restarting_workers"],
            boot_timeout=ours["worker_boot_timeout"],
            drain_timeout=ours["worker_drain_timeout"],
            flush_timeout=ours["worker_flush_timeout"],
            hang_timeout=ours["worker_hang_timeout"],
            min_lifetime=ours["min_worker_lifetime"],
        ),
        recycling=Recycling(
            memory_mb=ours["max_worker_memory_mb"],
            lifetime=ours["max_worker_lifetime"],
            jitter=ours["worker_limit_jitter"],
        ),
        preload=not ours["no_preload"],
        reads=ctx.obj if isinstance(ctx.obj, ImportReads) else None,
        visibility=Visibility(ours["status_socket"], ours["resilience_metrics_port"]),
        preload_modules=ours["preload_modules"] or (),
        keep_helpers=ours["keep_worker_helpers"] or frozenset(),
        given=tuple(name for name in given if name in options.SUPERVISION),
    )


def _renamed_version(parameter: click.Parameter) -> click.Parameter:
    if parameter.name != "version":
        return parameter
    renamed = copy.copy(parameter)
    if isinstance(renamed, click.Option):
        renamed.help = options.version_option().help
    return renamed


def _effective_jitter(ctx: click.Context) -> int | None:
    """Return the jitter from our option or its alias in LiteLLM 1.90.0 and later.

    LiteLLM is not told: it would ignore it on uvicorn below 0.41, where we do not have to.
    """
    ours: int | None = ctx.params.pop(options.JITTER)
    native: int | None = ctx.params.get(options.NATIVE_JITTER)
    if native is not None:
        ctx.params[options.NATIVE_JITTER] = None
        if native < 0:
            raise click.UsageError(f"--{options.NATIVE_JITTER} must not be negative.", ctx)
    return options.one_jitter(ours, native)


def extended_command() -> ResilientCommand:
    """Return LiteLLM's command with our options.

    Raises:
        ImportError: if LiteLLM or what its proxy needs is not installed.
    """
    return ResilientCommand(interception.native_command())
