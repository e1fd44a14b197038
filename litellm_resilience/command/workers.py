"""How workers are started: asked from the supervisor that runs, or what is known before."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from litellm_resilience.status import channel, table

if TYPE_CHECKING:
    from pathlib import Path

UNDECIDED = (
    "forked, from the command's own process or from a template: the line `Supervising ...` of the "
    "log, and --status, say which, and why"
)


@dataclass(frozen=True)
class WorkerStart:
    """How workers are started.

    Attributes:
        how: in words, with the reason.
        supervisor: process id of the supervisor that says so; None if none was asked.
    """

    how: str
    supervisor: int | None = None


def find(path: Path | None, *, preload: bool) -> WorkerStart:
    """Ask the supervisor that runs here, or say what a new one would do.

    Args:
        path: its socket; None for the only one of this user.
        preload: whether workers may be forked.
    """
    try:
        supervisor = _ask(path)["supervisor"]
        return WorkerStart(table.started(supervisor), int(supervisor["pid"]))
    except (channel.UnavailableError, AttributeError, LookupError, TypeError, ValueError):
        return WorkerStart(_predicted(preload=preload))


def _ask(path: Path | None) -> dict[str, Any]:
    if os.name != "posix":
        raise channel.UnavailableError("no Unix sockets here")
    return channel.ask(path or channel.find())


def _predicted(*, preload: bool) -> str:
    if not preload:
        return "spawned: --no_preload"
    if sys.platform != "linux":
        return f"spawned: on {sys.platform} forking is not safe"
    return UNDECIDED
