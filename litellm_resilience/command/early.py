"""What is refused or answered before LiteLLM is imported, which takes seconds."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

import click

from litellm_resilience.command.combined import CombinedCommand
from litellm_resilience.servers import declared

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LITELLM_CHOOSES = 4000
"""LiteLLM's default port: where it is taken, LiteLLM takes another one."""
NOT_OURS_TO_TAKE = {0, LITELLM_CHOOSES}
SERVING_FLAGS = {
    *("debug", "detailed_debug", "drop_params", "add_function_to_prompt", "save", "local"),
    *("iam_token_db_auth", "azure_postgresql_auth", "run_gunicorn", "run_hypercorn", "reload"),
    *("use_prisma_db_push", "use_v2_migration_resolver", "use_legacy_migration_resolver"),
    "enforce_prisma_migration_check",
}
"""LiteLLM's flags with which it serves. With another one it may not: nothing is checked then."""
GIVEN_SOCKETS = any(name in os.environ for name in ("LISTEN_FDS", "LITELLM_RESILIENCE_TAKEOVER"))
"""Whether this process has been given sockets to listen on; read before options are."""
UNUSABLE = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}


class RefusedError(click.ClickException):
    """What was asked for cannot work; says so in one sentence."""

    exit_code = 2


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Turn an error of usage into one without the usage."""
    try:
        yield
    except click.UsageError as error:
        said = error
        if isinstance(error, click.NoSuchOption):
            names = _spelt_once(error.possibilities or ())
            said = click.NoSuchOption(error.option_name, error.message, names)
        raise RefusedError(said.format_message()) from error


def _spelt_once(names: Sequence[str]) -> list[str]:
    """Return options without their spellings with hyphens, where the other one is there too."""
    return [
        name
        for name in names
        if (other := f"--{name[2:].replace('-', '_')}") == name or other not in names
    ]


def check(arguments: Sequence[str], program: str | None) -> None:
    """Refuse what cannot work, as far as that is known without LiteLLM; answer `--help`.

    Args:
        arguments: of the command line.
        program: the name of the command.

    Raises:
        click.UsageError: for arguments that LiteLLM's command does not know.
        RefusedError: the proxy's packages, the config file or the port are not to be had.
        click.exceptions.Exit: it was answered.
    """
    path = declared.source()
    native = declared.read(path) if path else None
    if native is None:
        _refuse_missing(declared.missing())
        return
    command = CombinedCommand(native)
    with command.make_context(program, list(arguments)) as context:
        _refuse_missing(declared.missing())
        if _serves(command, context):
            _refuse_config(context.params.get("config"))
            if not (GIVEN_SOCKETS or context.params.get("run_granian")):
                _refuse_port(context.params.get("host"), context.params.get("port"))


def _refuse_missing(modules: Sequence[str]) -> None:
    if modules:
        raise RefusedError(
            f"LiteLLM's proxy needs {', '.join(modules)}: install it with "
            "`pip install 'litellm[proxy]'`."
        )


def _serves(command: CombinedCommand, context: click.Context) -> bool:
    flags = [
        option.name
        for option in command.theirs
        if isinstance(option, click.Option)
        and (option.is_flag or option.flag_value is True)
        and context.params.get(str(option.name))
    ]
    return SERVING_FLAGS.issuperset(flags)


def _refuse_config(path: str | None) -> None:
    if path is None or "LITELLM_CONFIG_BUCKET_NAME" in os.environ:
        return
    try:
        with open(path, "rb"):  # noqa: PTH123 - a path in whatever form LiteLLM would take it
            return
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise RefusedError(f"The config file {path!r} cannot be read: {reason}.") from error


def _refuse_port(host: str | None, port: int | None) -> None:
    if host is None or port is None or port in NOT_OURS_TO_TAKE:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno not in UNUSABLE:
                return
            reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
            raise RefusedError(f"Cannot listen on {host}:{port}: {reason}.") from error
