"""The options this package adds to LiteLLM's command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from litellm_resilience.command.parameter_types import (
    Finite,
    Fraction,
    Modules,
    Names,
    NumberOrAuto,
    PictureFile,
    PortOption,
    SecondsOrAuto,
    SocketPath,
    WholeNumber,
    both_spellings,
)
from litellm_resilience.supervisor.commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS = "SECONDS"
JITTER = "max_requests_jitter"
NATIVE_JITTER = "max_requests_before_restart_jitter"
SUPERVISION = (
    "max_worker_memory_mb",
    "max_worker_lifetime",
    "worker_limit_jitter",
    "min_worker_lifetime",
    "max_restarting_workers",
    "max_draining_workers",
    "worker_boot_timeout",
    "worker_drain_timeout",
    "worker_hang_timeout",
    "slow_callback",
    "reload_trial",
    "watch_config",
    "keep_worker_helpers",
    "no_preload",
    "preload_modules",
    "status_socket",
    "resilience_metrics_port",
    "resilience_health_port",
    "resilience_drain_delay",
)
"""The options that only mean something where workers are supervised by us."""


def serving_options() -> list[click.Option]:
    """Return the options that change how the proxy is served."""
    return [
        _option(
            JITTER,
            WholeNumber(0),
            None,
            "Let each worker serve up to this many requests more than "
            "--max_requests_before_restart, drawn at random for each worker, so that workers "
            "do not reach their limits together. Has no effect without "
            "--max_requests_before_restart.",
        ),
        _option(
            "max_worker_memory_mb",
            NumberOrAuto(1),
            "off",
            "Replace a worker whose resident memory is above this many MiB, the largest first. "
            "With auto: replace the largest before all processes together reach their memory limit "
            "(the cgroup's, so the container's).",
        ),
        _option(
            "max_worker_lifetime",
            Finite(min=0, min_open=True),
            None,
            "Replace a worker that has served for this many seconds.",
            SECONDS,
        ),
        _option(
            "worker_limit_jitter",
            Finite(min=0, max=1, max_open=True),
            0.1,
            "Lower --max_worker_memory_mb and --max_worker_lifetime by up to this fraction, drawn "
            "at random for each worker.",
            "FRACTION",
        ),
        _option(
            "min_worker_lifetime",
            Finite(min=0),
            1.0,
            "Do not replace a worker for a limit before it has served for this many seconds.",
            SECONDS,
        ),
        _option(
            "max_restarting_workers",
            WholeNumber(1),
            1,
            "Replace at most this many workers at the same time.",
        ),
        _option(
            "max_draining_workers",
            WholeNumber(1),
            None,
            "While this many replaced workers still finish their requests and streams, the "
            "others serve on beyond their limits, except that of memory. By default as many as "
            "there are workers, at least 2.",
        ),
        _option(
            "worker_boot_timeout",
            Finite(min=1),
            300.0,
            "End a worker that is not ready after this many seconds, and start another.",
            SECONDS,
        ),
        _option(
            "worker_drain_timeout",
            Finite(min=0, min_open=True),
            600.0,
            "Let a worker that was replaced finish its requests and streams for up to this many "
            "seconds.",
            SECONDS,
        ),
        _option(
            "worker_flush_timeout",
            Finite(min=0),
            10.0,
            "Let a worker that ends send its log events, spend and traces for up to this many "
            "seconds after its last reply.",
            SECONDS,
        ),
        _option(
            "worker_hang_timeout",
            Finite(min=1),
            60.0,
            "Replace a worker whose event loop is blocked for this many seconds.",
            SECONDS,
        ),
        _option(
            "slow_callback",
            Finite(min=0),
            1.0,
            "Name in the log, with its stack, what blocks a worker's event loop for longer than "
            "this many seconds, each culprit once, and count it in the metrics. 0: do not.",
            SECONDS,
        ),
        _option(
            "reload_trial",
            Finite(min=0),
            30.0,
            "At a SIGHUP, try one new worker for this many seconds, and replace the others only if "
            "it has no more errors than they have and is not much slower. 0: replace all at once.",
            SECONDS,
        ),
        click.Option(
            both_spellings("watch_config"),
            is_flag=True,
            envvar="WATCH_CONFIG",
            show_envvar=True,
            help="Reload, as at a SIGHUP, when the content of LiteLLM's config file has changed.",
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
            help="Let each worker import LiteLLM for itself. Otherwise workers are forked from a "
            "process that has imported it.",
        ),
        status_socket_option(),
        PortOption(
            "resilience_metrics_port",
            ["LITELLM_RESILIENCE_METRICS_PORT", "RESILIENCE_METRICS_PORT"],
            "Serve Prometheus metrics of the workers on this port, from a process beside the "
            "supervisor. Needs prometheus_client.",
        ),
        PortOption(
            "resilience_health_port",
            ["LITELLM_RESILIENCE_HEALTH_PORT"],
            "Answer /live and /ready on this port, from a process beside the supervisor: 200 or "
            "503, also while workers are blocked. The metrics port answers them too.",
        ),
        _option(
            "resilience_drain_delay",
            Finite(min=0),
            None,
            "Answer /drain there too, for preStop: /ready fails at once, and this many seconds "
            "later the proxy accepts nothing new and ends when everything is answered. Whoever "
            "reaches the port can end the proxy.",
            SECONDS,
        ),
    ]


def status_socket_option() -> click.Option:
    """Return `--status_socket`, which also says whom to ask."""
    return _option(
        "status_socket",
        SocketPath(),
        None,
        "Path of the Unix socket on which the supervisor answers --status and --ctl. By default a "
        "socket named after the port, in a directory of the user's own.",
    )


def _option(
    name: str, kind: click.ParamType[Any], default: Any, text: str, metavar: str | None = None
) -> click.Option:
    return click.Option(
        both_spellings(name),
        type=kind,
        metavar=metavar,
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
                "Show whether each repair fits this machine, and exit: 0 if all is well, "
                "1 if one that should apply cannot."
            ),
        ),
        click.Option(
            ["--status"],
            is_flag=True,
            help="Show the workers of the running supervisor, with --port of the one that serves "
            "there, and exit: 1 if none runs.",
        ),
        click.Option(
            ["--watch"],
            is_flag=True,
            help="With --status: show it again every second, until interrupted.",
        ),
        ctl_option(),
        json_option(),
    ]


def ctl_option() -> click.Option:
    """Return `--ctl`."""
    usages = [
        f"{name}{f' {command.argument.name}' if command.argument else ''}: {command.means}."
        for name, command in COMMANDS.items()
    ]
    return click.Option(
        ["--ctl"],
        type=click.Choice(list(COMMANDS)),
        help="Tell the running supervisor to do something, and exit: 1 if it does not. "
        + " ".join(usages),
    )


def port_option() -> click.Option:
    """Return LiteLLM's option for its port, as far as it says which supervisor is meant."""
    return click.Option(["--port"], type=WholeNumber(1, 65535))


def given_port(arguments: Sequence[str]) -> int | None:
    """Return the port among the arguments of the whole command, if it is there."""
    port: int | None = _given(port_option(), arguments)
    return port


def given_config(arguments: Sequence[str]) -> str | None:
    """Return the config file among the arguments of the whole command, if it is there."""
    path: str | None = _given(config_option(), arguments)
    return path


def watched_config(path: str | None) -> str:
    """Return the path of the config file that workers read.

    Args:
        path: of `--config`, if it was given; `CONFIG_FILE_PATH` is stronger in LiteLLM.

    Raises:
        click.UsageError: they read none that can be watched.
    """
    if "LITELLM_CONFIG_BUCKET_NAME" in os.environ:
        raise click.UsageError(
            "--watch_config needs a file; LITELLM_CONFIG_BUCKET_NAME names a bucket instead."
        )
    path = os.environ.get("CONFIG_FILE_PATH") or path
    if path is None:
        raise click.UsageError("--watch_config needs --config.")
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - as LiteLLM asks
        raise click.UsageError(f"--watch_config needs a file; {path!r} is none.")
    return path


def _given(option: click.Option, arguments: Sequence[str]) -> Any:
    command = click.Command(
        name=None,
        params=[option],
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )
    return command.make_context(None, list(arguments)).params[str(option.name)]


def json_option() -> click.Option:
    """Return `--json`."""
    return click.Option(
        ["--json", "as_json"],
        is_flag=True,
        help="With --doctor, --status, --ctl or --plan: print JSON.",
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
            "down together, and which jitter prevents it, for plain litellm and for "
            "litellm-resilient; then exit. Needs --max_requests_before_restart and --rps.",
        ),
        click.Option(
            ["--rps"],
            type=Finite(min=1e-6, max=1e9),
            metavar="N",
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
            both_spellings("drain_seconds"),
            type=Finite(min=0, min_open=True, max=86400),
            metavar=SECONDS,
            default=5.0,
            show_default=True,
            help="With --plan: how long a replaced worker takes to finish what it has, such as its "
            "longest stream.",
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
            type=WholeNumber(1, 1_000_000),
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
            type=WholeNumber(1, 1000),
            default=1,
            show_default=True,
            envvar=["NUM_WORKERS", "DEFAULT_NUM_WORKERS_LITELLM_PROXY"],
            help="Workers in each pod.",
        ),
        click.Option(
            ["--max_requests_before_restart"],
            type=WholeNumber(1),
            envvar="MAX_REQUESTS_BEFORE_RESTART",
            help="Requests after which a worker is recycled.",
        ),
        click.Option(
            [f"--{NATIVE_JITTER}"],
            type=WholeNumber(0),
            envvar=NATIVE_JITTER.upper(),
            help=f"The same as --{JITTER}.",
        ),
    ]


def config_option() -> click.Option:
    """Return LiteLLM's option for its config file, to be read for what the file says of us."""
    return click.Option(["--config", "-c"], help="LiteLLM's config file.")


def front_options() -> list[click.Option]:
    """Return those of LiteLLM's own options that decide how long connections are kept."""
    servers = ("run_gunicorn", "run_hypercorn", "run_granian")
    return [
        click.Option(["--keepalive_timeout"], type=int, envvar="KEEPALIVE_TIMEOUT"),
        *(click.Option([f"--{server}"], is_flag=True) for server in servers),
    ]


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
