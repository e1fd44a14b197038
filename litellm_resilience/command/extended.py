"""LiteLLM's own command with our options added.

Nothing of LiteLLM's command is changed: this is a copy of it, with our parameters beside its own,
that runs its callback while the servers it may start are intercepted.
"""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

from litellm_resilience.command import options
from litellm_resilience.command.combined import CombinedCommand
from litellm_resilience.repairs import worker_end
from litellm_resilience.servers import interception
from litellm_resilience.servers.supervised import Supervision
from litellm_resilience.status.services import Visibility
from litellm_resilience.supervisor.environment import ImportReads
from litellm_resilience.supervisor.limits import Recycling
from litellm_resilience.supervisor.policy import Settings

SERVER_FLAGS = ("run_gunicorn", "run_hypercorn", "run_granian")
WITHOUT_LIMIT = {"run_hypercorn", "run_granian"}
"""Servers whose workers no request limit recycles, although LiteLLM takes the option."""
LIMIT = "max_requests_before_restart"


class ResilientCommand(CombinedCommand):
    """LiteLLM's command with our options, run with the servers that it may start intercepted.

    Args:
        native: LiteLLM's own `run_server` command.
    """

    def __init__(self, native: click.Command) -> None:
        super().__init__(native, native.callback)

    def invoke(self, ctx: click.Context) -> Any:
        """Run LiteLLM's callback with the servers it may start intercepted."""
        jitter = _effective_jitter(ctx)
        given = [
            name
            for option in self.ours
            if (name := option.name) is not None
            and ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        ]
        ours = {option.name: ctx.params.pop(option.name, None) for option in self.ours}
        for name in ("resilience_metrics_port", "resilience_health_port"):
            if ours[name] is not None and ours[name] == ctx.params.get("port"):
                raise click.UsageError(f"--{name} must not be --port.", ctx)
        os.environ[worker_end.TIMEOUT_VARIABLE] = str(ours["worker_flush_timeout"])
        chosen = next((flag for flag in SERVER_FLAGS if ctx.params.get(flag)), None)
        given = [name for name in given if name in options.SUPERVISION]
        if chosen in WITHOUT_LIMIT and ctx.params.get(LIMIT) is not None:
            given.append(LIMIT)
        with interception.intercepted(jitter, chosen, _supervision(ctx, ours, given)):
            return super().invoke(ctx)


def _supervision(ctx: click.Context, ours: dict[Any, Any], given: list[str]) -> Supervision:
    memory = ours["max_worker_memory_mb"]
    return Supervision(
        settings=Settings(
            max_restarting=ours["max_restarting_workers"],
            max_draining=ours["max_draining_workers"],
            boot_timeout=ours["worker_boot_timeout"],
            drain_timeout=ours["worker_drain_timeout"],
            flush_timeout=ours["worker_flush_timeout"],
            hang_timeout=ours["worker_hang_timeout"],
            min_lifetime=ours["min_worker_lifetime"],
            slow_callback=ours["slow_callback"],
            reload_trial=ours["reload_trial"],
        ),
        recycling=Recycling(
            memory_mb=memory if isinstance(memory, int) else None,
            within_group=memory == "auto",
            lifetime=ours["max_worker_lifetime"],
            jitter=ours["worker_limit_jitter"],
        ),
        preload=not ours["no_preload"],
        reads=ctx.obj if isinstance(ctx.obj, ImportReads) else None,
        visibility=Visibility(
            ours["status_socket"],
            ours["resilience_metrics_port"],
            ours["resilience_health_port"],
            ours["resilience_drain_delay"],
        ),
        preload_modules=ours["preload_modules"] or (),
        keep_helpers=ours["keep_worker_helpers"] or frozenset(),
        watched_config=(
            options.watched_config(ctx.params.get("config")) if ours["watch_config"] else None
        ),
        given=tuple(given),
    )


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
