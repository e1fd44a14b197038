"""`litellm-resilient --status`: ask the running supervisor."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from litellm_resilience.status import channel, table

if TYPE_CHECKING:
    from pathlib import Path

WATCH_SECONDS = 1.0
CLEAR = "\x1b[H\x1b[2J"


def run(path: Path | None, port: int | None = None, *, as_json: bool, watch: bool) -> int:
    """Print the state of a supervisor.

    Args:
        path: its socket, if that was given.
        port: that it serves, if that was given; without both, the only one of this user is asked.
        as_json: print a JSON object, or with `watch` one per line, instead of a table.
        watch: print again every second until interrupted, in place on a terminal.

    Returns:
        The exit code: 1 if no supervisor could be asked.
    """
    if os.name != "posix":
        click.echo("--status needs Unix sockets, which this platform lacks.", err=True)
        return 1
    try:
        path = channel.chosen(path, port)
        _print(path, as_json=as_json, watch=watch)
        while watch:
            time.sleep(WATCH_SECONDS)
            _print(path, as_json=as_json, watch=watch)
    except channel.UnavailableError as error:
        click.echo(f"No status: {error}.", err=True)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _print(path: Path, *, as_json: bool, watch: bool) -> None:
    state = channel.ask(path)
    if as_json:
        click.echo(json.dumps(state, indent=None if watch else 2))
        return
    in_place = watch and sys.stdout.isatty()
    click.echo(f"{CLEAR if in_place else ''}{_table(path, state)}")


def _table(path: Path, state: dict[str, Any]) -> str:
    try:
        return table.render(state)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise channel.UnavailableError(
            f"{path}: what answers there is no supervisor of this version; "
            "--json prints what it says"
        ) from error
