"""The options this package adds to LiteLLM's command."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

SECTION = "Resilience options"
JITTER = "max_requests_jitter"
LONGEST_SOCKET_PATH = 103
"""Bytes; the least that a platform allows (macOS)."""
SUPERVISION = (
    "max_worker_memory_mb",
    "max_worker_lifetime",
    "worker_limit_jitter",
    "min_worker_lifetime",
    "max_restarting_workers",
    "worker_boot_timeout",
    "worker_drain_timeout",
    "worker_hang_timeout",
    "no_preload",
    "status_socket",
    "resilience_metrics_port",
)
"""The options that only mean something where workers are supervised by us."""


def both_spellings(name: str) -> list[str]:
    """Return an option's spelling with underscores, as LiteLLM's, and with hyphens."""
    return [f"--{name}", f"--{name.replace('_', '-')}"]


class Finite(click.FloatRange):
    """A float in a range; "nan" compares with nothing, so click would let it pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and check."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class SocketPath(click.ParamType[Path]):
    """A path for a Unix socket."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Check that a socket can be made there."""
        path = Path(value).absolute()
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            self.fail(f"{path} is too long for a socket.", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"{path.parent} is not a directory.", param, ctx)
        return path


def serving_options() -> list[click.Option]:
    """Return the options that change how the proxy is served."""
    return [
        _option(
            JITTER,
            click.IntRange(min=0),
            None,
            "Let each worker serve up to this many requests more than "
            "--max_requests_before_restart, drawn at random for each worker, so that workers "
            "do not reach their limits together. Has no effect without "
            "--max_requests_before_restart.",
        ),
        _option(
            "max_worker_memory_mb",
            click.IntRange(min=1),
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
            "Let no limit replace a worker that has served for less than this many seconds.",
        ),
        _option(
            "max_restarting_workers",
            click.IntRange(min=1),
            1,
            "Replace at most this many workers at once, whatever their limits say.",
        ),
        _option(
            "worker_boot_timeout",
            Finite(min=1),
            300.0,
            "Give up a worker that is not ready after this many seconds, and try again.",
        ),
        _option(
            "worker_drain_timeout",
            Finite(min=0, min_open=True),
            600.0,
            "Let a worker that was replaced finish its requests and streams for up to this many "
            "seconds.",
        ),
        _option(
            "worker_hang_timeout",
            Finite(min=1),
            60.0,
            "Replace a worker whose event loop does not turn for this many seconds.",
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
            "Where the supervisor listens for --status, and --status asks. By default a socket "
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
                "Say what becomes of each patch on this machine, and exit: 0 if all is well, "
                "1 if a patch that should apply cannot."
            ),
        ),
        click.Option(
            ["--status"],
            is_flag=True,
            help="Ask the running supervisor what its workers do, and exit: 1 if none runs.",
        ),
        click.Option(
            ["--watch"], is_flag=True, help="With --status: again every second, until interrupted."
        ),
        click.Option(
            ["--json", "as_json"], is_flag=True, help="With --doctor or --status: print JSON."
        ),
    ]


def version_option() -> click.Option:
    """Return `--version`, which takes the place of LiteLLM's own."""
    return click.Option(
        ["--version", "-v"],
        is_flag=True,
        help="Print the versions of litellm-resilience, LiteLLM and uvicorn.",
    )
