"""How this process was started, and what it was given by the one whose place it takes.

The old proxy starts the new one with its listening sockets and two more: one to the old proxy, for
READY and GO, and one to the process that was there first, which keeps its process id until the
last of its successors has ended. An environment variable names their descriptors.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VARIABLE = "LITELLM_RESILIENCE_TAKEOVER"
PROGRAM = "litellm-resilient"
READY, GO = b"r", b"g"
OF_ONE_PROCESS = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")
"""Variables of a service manager that name a process, or what it alone was given."""


class UpgradeError(Exception):
    """There can be no upgrade now, and why."""


@dataclass
class Given:
    """What the old proxy gave this one.

    Args:
        sockets: to listen on.
        old: to the old proxy.
        first: to the process that was there first; its end of file says that it has ended.
        pid: of the old proxy.
        taken: whether this process has taken the old one's place.
    """

    sockets: list[socket.socket]
    old: socket.socket
    first: socket.socket
    pid: int
    taken: bool = False


@dataclass(frozen=True)
class Origin:
    """How this process was started.

    Args:
        arguments: the command line, the interpreter first.
        environment: before anything here has changed it.
        directory: the working directory; None if it is gone.
        given: by the old proxy, if there is one.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str]
    directory: str | None
    given: Given | None

    def command(self, program: Path | None = None) -> list[str]:
        """Return the command line that starts the same again.

        Args:
            program: another `litellm-resilient`, or a virtual environment that has one; the
                arguments stay.

        Raises:
            FileNotFoundError: there is none.
        """
        if program is None:
            return [sys.executable, *self.arguments[1:]]
        found = program / "bin" / PROGRAM if program.is_dir() else program
        if not (found.is_file() and os.access(found, os.X_OK)):
            raise FileNotFoundError(f"{found} is no program")
        return [str(found), *sys.argv[1:]]


_origin: Origin | None = None
_at_hand_over: list[Callable[[], object]] = []


def begin() -> None:
    """Note how this process was started; to be called before anything changes its environment.

    Raises:
        ValueError: the environment names descriptors that this process was not given.
    """
    global _origin  # noqa: PLW0603
    named = os.environ.pop(VARIABLE, None)
    directory = None
    with contextlib.suppress(OSError):
        directory = os.getcwd()  # noqa: PTH109 - as it is told to another process
    environment = {k: v for k, v in os.environ.items() if k not in OF_ONE_PROCESS}
    given = None if named is None else _given(named)
    _origin = Origin(tuple(sys.orig_argv), environment, directory, given)


def _given(named: str) -> Given:
    try:
        names = json.loads(named)
        return Given(
            [_adopt(number) for number in names["sockets"]],
            _adopt(names["old"]),
            _adopt(names["first"]),
            int(names["pid"]),
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"{VARIABLE} is set by the proxy that is upgraded, and by nobody else: {error}"
        ) from error


def _adopt(number: int) -> socket.socket:
    adopted = socket.socket(fileno=number)
    adopted.set_inheritable(False)
    return adopted


def origin() -> Origin | None:
    """Return how this process was started, if that was noted."""
    return _origin


def given() -> Given | None:
    """Return what this process was given by an old proxy, if there is one."""
    return None if _origin is None else _origin.given


def at_hand_over(end: Callable[[], object]) -> None:
    """Have something end when this process gives way to another one, which needs its place."""
    _at_hand_over.append(end)


def give_way() -> None:
    """End what another process needs the place of."""
    while _at_hand_over:
        with contextlib.suppress(OSError):
            _at_hand_over.pop()()
