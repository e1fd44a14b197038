"""LiteLLM's options and ours as one command, and its help."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import click

from litellm_resilience.command import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SECTIONS = {
    "When a worker is recycled": (
        "max_requests_jitter",
        "max_worker_memory_mb",
        "max_worker_lifetime",
        "worker_limit_jitter",
        "min_worker_lifetime",
        "max_restarting_workers",
        "max_draining_workers",
    ),
    "How a worker starts": (
        *("preload_modules", "no_preload", "worker_boot_timeout", "reload_trial", "watch_config"),
    ),
    "How a worker ends": (
        "worker_drain_timeout",
        "worker_flush_timeout",
        "worker_hang_timeout",
        "keep_worker_helpers",
    ),
    "What can be seen while it runs": (
        *("status_socket", "resilience_metrics_port", "resilience_health_port"),
        *("resilience_drain_delay", "slow_callback"),
    ),
    "Look or command, instead of serving": (
        *("doctor", "status", "watch", "ctl", "as_json", "version", "help"),
    ),
    "Plan, instead of serving": tuple(str(option.name) for option in options.planning_options()),
}
"""The sections of the help, with the names of our options."""
OTHERS = "More options"
THEIRS = "Options of LiteLLM"
USAGE = "[OPTIONS OF LITELLM] [OPTIONS]"
HELP = """LiteLLM's proxy, whose workers are recycled without losing a request.

The options of the installed LiteLLM work as they do for `litellm`, but for
--timeout_worker_healthcheck, which has no effect where workers are supervised. Ours come on top. An
option of ours for serving is also read from the environment variable of the same name in capitals,
such as MAX_REQUESTS_JITTER; for the two ports, LITELLM_RESILIENCE_METRICS_PORT and
LITELLM_RESILIENCE_HEALTH_PORT. Names may be written with hyphens. docs/options.md says more."""
METAVARS = {
    "choice": "COMMAND",
    "integer": "N",
    "integer range": "N",
    "float": "X",
    "float range": "X",
}


class CombinedCommand(click.Command):
    """LiteLLM's command with our parameters beside its own.

    Args:
        native: LiteLLM's own `run_server` command, or one with its parameters.
        callback: what it runs; by default nothing.
    """

    def __init__(
        self, native: click.Command, callback: Callable[..., object] | None = None
    ) -> None:
        self.ours: Sequence[click.Option] = [
            *options.serving_options(),
            *options.inspection_options(),
            *options.planning_options(),
        ]
        self.theirs = [_renamed_version(parameter) for parameter in native.params]
        super().__init__(
            name=native.name,
            context_settings=native.context_settings,
            callback=callback,
            params=[*self.theirs, *self.ours],
            help=HELP,
            epilog=native.epilog,
            options_metavar=USAGE,
        )

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Leave out LiteLLM's argument, which it does not use."""
        return [str(self.options_metavar)] if ctx is not None else []

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write our options by purpose, then LiteLLM's."""
        help_option = self.get_help_option(ctx)
        known: dict[str, click.Parameter] = {str(option.name): option for option in self.ours}
        known |= {str(option.name): option for option in self.theirs if option.name == "version"}
        known |= {"help": help_option} if help_option else {}
        sections = {
            title: [known[name] for name in names if name in known]
            for title, names in SECTIONS.items()
        }
        listed = {name for names in SECTIONS.values() for name in names}
        sections[OTHERS] = [known[name] for name in known if name not in listed]
        for title, parameters in sections.items():
            _write(formatter, title, (_record(ctx, parameter) for parameter in parameters))
        rest = [
            parameter
            for parameter in self.theirs
            if isinstance(parameter, click.Option) and parameter.name not in listed
        ]
        _write(formatter, THEIRS, (parameter.get_help_record(ctx) for parameter in rest))


def _write(
    formatter: click.HelpFormatter, title: str, records: Iterable[tuple[str, str] | None]
) -> None:
    found = [record for record in records if record is not None]
    if found:
        with formatter.section(title):
            formatter.write_dl(found)


def _record(ctx: click.Context, option: click.Parameter) -> tuple[str, str] | None:
    """Return one spelling of an option of ours, and its meaning with its default."""
    if not isinstance(option, click.Option):
        return option.get_help_record(ctx)
    long = next(name for name in option.opts if name.startswith("--"))
    short = [name for name in option.opts if not name.startswith("--")]
    metavar = option.metavar or METAVARS.get(option.type.name, option.type.name.upper())
    value = "" if option.is_flag else f" {metavar}"
    default = option.default if option.show_default else None
    shown = f"  [default: {default:g}]" if isinstance(default, float) else f"  [default: {default}]"
    text = option.help or ""
    return ", ".join([*short, long]) + value, text if default is None else text + shown


def _renamed_version(parameter: click.Parameter) -> click.Parameter:
    if parameter.name != "version":
        return parameter
    renamed = copy.copy(parameter)
    if isinstance(renamed, click.Option):
        renamed.help = options.version_option().help
    return renamed
