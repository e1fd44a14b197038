"""`litellm-resilient --ctl`: tell the running supervisor to do something."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from litellm_resilience.command import options
from litellm_resilience.status import channel, table
from litellm_resilience.supervisor import commands

if TYPE_CHECKING:
    from pathlib import Path


def command() -> click.Command:
    """Return a command that takes the arguments of the whole command, and refuses all others."""
    return click.Command(
        name="ctl",
        params=[
            options.ctl_option(),
            options.status_socket_option(),
            options.port_option(),
            options.json_option(),
            click.Argument(["words"], nargs=-1),
        ],
        callback=_run,
        add_help_option=False,
    )


def _run(
    *,
    ctl: str,
    status_socket: Path | None,
    port: int | None,
    as_json: bool,
    words: tuple[str, ...],
) -> None:
    try:
        commands.parse([ctl, *words])
    except ValueError as error:
        raise click.UsageError(f"--ctl: {error}.") from error
    click.get_current_context().exit(_tell(status_socket, port, [ctl, *words], as_json=as_json))


def _tell(path: Path | None, port: int | None, words: list[str], *, as_json: bool) -> int:
    """Have a command done; print what was done. Return the exit code: 1 if it was not."""
    if os.name != "posix":
        click.echo("--ctl needs Unix sockets, which this platform lacks.", err=True)
        return 1
    try:
        answer = channel.ask(channel.chosen(path, port), words)
    except channel.UnavailableError as error:
        answer = {"refused": str(error)}
    if not isinstance(answer.get("done", answer.get("refused")), str):
        answer = {"refused": "the supervisor there is of a version that takes no commands"}
    return _print(answer, as_json=as_json)


def _print(answer: dict[str, Any], *, as_json: bool) -> int:
    done = "done" in answer
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    elif done:
        click.echo(table.printable(answer["done"]))
    else:
        click.echo(f"Not done: {table.printable(answer['refused'])}.", err=True)
    return 0 if done else 1
