"""The options this package adds to LiteLLM's command."""

from __future__ import annotations

from typing import Any

import click

from litellm_resilience.command.parameter_types import (
    Finite,
    Fraction,
    Modules,
    Names,
    PictureFile,
    SecondsOrAuto,
    SocketPath,
)

LARGEST_WHOLE_NUMBER = 2**31 - 1
"""Of whole numbers; whoever gives more has made a slip."""
HELP_SECTION = "Resilience options"
JITTER = "max_requests_jitter"
NATIVE_JITTER = "max_requests_before_restart_jitter"
SUPERVISION = (
    "max_worker_memory_mb",
    "max_worker_lifetime",
    "worker_limit_jitter",
    "min_worker_lifetime",
    "max_restarting_workers",
    "worker_boot_timeout",
    "worker_drain_timeout",
    "worker_hang_timeout",
    "keep_worker_helpers",
    "no_preload",
    "preload_modules",
    "status_socket",
    "resilience_metrics_port",
)
"""The options that only mean something where workers are supervised by us."""


def both_spellings(name: str) -> list[str]:
    """Return an option's spelling with underscores, as LiteLLM's, and with hyphens."""
    return [f"--{name}", f"--{name.replace('_', '-')}"]


def serving_options() -> list[click.Option]:
    """Return the options that change how the proxy is served."""
    return [
        _option(
            JITTER,
            click.IntRange(min=0, max=LARGEST_WHOLE_NUMBER),
            None,
            "Let each worker serve up to this many requests more than "
            "--max_requests_before_restart, drawn at random for each worker, so that workers "
            "do not reach their limits together. Has no effect without "
            "--max_requests_before_restart.",
        ),
        _option(
            "max_worker_memory_mb",
            click.IntRange(min=1, max=LARGEST_WHOLE_NUMBER),
            None,
            "Replace a worker whose resident memory is above this many MiB, the largest first.",
        ),
        _option(
            "max_worker_lifetime",
            Finite(min=0, min_open=True),
            None,
            "Replace a worker that has served for this many seconds.",
        ),
        _option(
            "worker_limit_jitter",
            Finite(min=0, max=1, max_open=True),
            0.1,
            "Lower --max_worker_memory_mb and --max_worker_lifetime by up to this fraction, drawn "
            "at random for each worker.",
        ),
        _option(
            "min_worker_lifetime",
            Finite(min=0),
            1.0,
            "Do not replace a worker for a limit before it has served for this many seconds.",
        ),
        _option(
            "max_restarting_workers",
            click.IntRange(min=1, max=LARGEST_WHOLE_NUMBER),
            1,
            "Replace at most this many workers at the same time.",
        ),
        _option(
            "worker_boot_timeout",
            Finite(min=1),
            300.0,
            "End a worker that is not ready after this many seconds, and start another.",
        ),
        _option(
            "worker_drain_timeout",
            Finite(min=0, min_open=True),
            600.0,
            "Let a worker that was replaced finish its requests and streams for up to this many "
            "seconds.",
        ),
        _option(
            "worker_flush_timeout",
            Finite(min=0),
            10.0,
            "Let a worker that ends send its log events, spend and traces for up to this many "
            "seconds after its last reply.",
        ),
        _option(
            "worker_hang_timeout",
            Finite(min=1),
            60.0,
            "Replace a worker whose event loop is blocked for this many seconds.",
        ),
        _option(
            "keep_worker_helpers",
            Names(),
            None,
            "Let processes with these names, separated by commas, outlive the worker that has "
            "started them. All others end with it.",
        ),
        _option(
            "preload_modules",
            Modules(),
            None,
            "Import these Python modules, separated by commas, before workers are forked: those "
            "that your callbacks import and that take long, such as numpy or boto3.",
        ),
        click.Option(
            both_spellings("no_preload"),
            is_flag=True,
            envvar="NO_PRELOAD",
            show_envvar=True,
            help="Let each worker import LiteLLM for itself instead of forking workers from a "
            "process that has.",
        ),
        _option(
            "status_socket",
            SocketPath(),
            None,
            "Path of the Unix socket on which the supervisor answers --status. By default a socket "
            "named after the port, in a directory of the user's own.",
        ),
        _option(
            "resilience_metrics_port",
            click.IntRange(min=1, max=65535),
            None,
            "Serve Prometheus metrics of the workers on this port, from the supervisor. Needs "
            "prometheus_client.",
        ),
    ]


def _option(name: str, kind: click.ParamType[Any], default: Any, text: str) -> click.Option:
    return click.Option(
        both_spellings(name),
        type=kind,
        default=default,
        show_default=default is not None,
        envvar=name.upper(),
        show_envvar=True,
        help=text,
    )


def inspection_options() -> list[click.Option]:
    """Return the options that tell something and serve nothing."""
    return [
        click.Option(
            ["--doctor"],
            is_flag=True,
            help=(
                "Show the state of each patch on this machine, and exit: 0 if all is well, "
                "1 if a patch that should apply cannot."
            ),
        ),
        click.Option(
            ["--status"],
            is_flag=True,
            help="Show the workers of the running supervisor, and exit: 1 if none runs.",
        ),
        click.Option(
            ["--watch"],
            is_flag=True,
            help="With --status: show it again every second, until interrupted.",
        ),
        json_option(),
    ]


def json_option() -> click.Option:
    """Return `--json`."""
    return click.Option(
        ["--json", "as_json"], is_flag=True, help="With --doctor, --status or --plan: print JSON."
    )


def planning_options() -> list[click.Option]:
    """Return the options of a plan, which serves nothing either.

    No environment variable sets them: they are asked for, not deployed.
    """
    return [
        click.Option(
            ["--plan"],
            is_flag=True,
            help="Say how often workers would be recycled, what that costs, how likely two are "
            "down together, and which jitter prevents it, for plain LiteLLM and for us; then exit. "
            "Needs --max_requests_before_restart and --rps.",
        ),
        click.Option(
            ["--rps"],
            type=Finite(min=1e-6, max=1e9),
            help="With --plan: requests per second, over all pods.",
        ),
        click.Option(
            both_spellings("boot_seconds"),
            type=SecondsOrAuto(),
            default="auto",
            show_default=True,
            help="With --plan: how long a worker takes to import LiteLLM; auto measures it here.",
        ),
        click.Option(
            ["--target"],
            type=Fraction(),
            default="1%",
            show_default=True,
            help="With --plan: the highest accepted chance that two workers are down together.",
        ),
        click.Option(
            ["--pods"],
            type=click.IntRange(min=1, max=1_000_000),
            default=1,
            show_default=True,
            help="With --plan: number of equal pods that share the load.",
        ),
        click.Option(
            ["--plot"],
            type=PictureFile(dir_okay=False),
            help="With --plan: draw the capacity over time into this .svg or .png instead of the "
            "terminal.",
        ),
        click.Option(
            ["--seed"],
            type=int,
            default=0,
            show_default=True,
            help="With --plan: seed of the simulation; the same seed gives the same plan.",
        ),
    ]


def planned_options() -> list[click.Option]:
    """Return those of LiteLLM's own options that a plan depends on, for use without LiteLLM."""
    return [
        click.Option(
            ["--num_workers"],
            type=click.IntRange(min=1, max=1000),
            default=1,
            show_default=True,
            envvar=["NUM_WORKERS", "DEFAULT_NUM_WORKERS_LITELLM_PROXY"],
            help="Workers in each pod.",
        ),
        click.Option(
            ["--max_requests_before_restart"],
            type=click.IntRange(min=1, max=LARGEST_WHOLE_NUMBER),
            envvar="MAX_REQUESTS_BEFORE_RESTART",
            help="Requests after which a worker is recycled.",
        ),
        click.Option(
            [f"--{NATIVE_JITTER}"],
            type=click.IntRange(min=0, max=LARGEST_WHOLE_NUMBER),
            envvar=NATIVE_JITTER.upper(),
            help=f"The same as --{JITTER}.",
        ),
    ]


def config_option() -> click.Option:
    """Return LiteLLM's option for its config file, to be read for what the file says of us."""
    return click.Option(["--config", "-c"], help="LiteLLM's config file.")


def one_jitter(ours: int | None, native: int | None) -> int | None:
    """Return the jitter from our option or its alias in LiteLLM 1.90.0 and later.

    Args:
        ours: of `--max_requests_jitter`.
        native: of LiteLLM's own option.

    Raises:
        click.UsageError: they differ.
    """
    if native is not None and ours is not None and ours != native:
        raise click.UsageError(
            f"--{JITTER} {ours} and --{NATIVE_JITTER} {native} are the same option "
            "with different values.",
        )
    return native if ours is None else ours


def version_option() -> click.Option:
    """Return `--version`, which takes the place of LiteLLM's own."""
    return click.Option(
        ["--version", "-v"],
        is_flag=True,
        help="Print the versions of litellm-resilience, LiteLLM and uvicorn.",
    )
