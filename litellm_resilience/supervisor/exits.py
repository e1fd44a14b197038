"""Why a process ended, in words."""

from __future__ import annotations

import signal
from enum import Enum


class Cause(Enum):
    """Why a worker that had been ready ended unasked."""

    EXIT = "exit"
    SIGNAL = "signal"
    HANG = "hang"
    """Killed because its event loop did not turn."""
    DRAIN_TIMEOUT = "drain_timeout"
    """Killed because it had not drained in time."""


def cause(exitcode: int | None, *, draining: bool, killed: bool) -> Cause:
    """Say why a worker ended unasked.

    Args:
        exitcode: its exit status; minus the signal's number if a signal ended it.
        draining: whether it was draining.
        killed: whether the supervisor killed it.
    """
    if killed:
        return Cause.DRAIN_TIMEOUT if draining else Cause.HANG
    return Cause.SIGNAL if exitcode is not None and exitcode < 0 else Cause.EXIT


def describe(exitcode: int | None, killed_because: str | None = None) -> str:
    """Say why a process ended.

    Args:
        exitcode: its exit status; minus the signal's number if a signal ended it.
        killed_because: why the supervisor killed it, if it did.
    """
    if killed_because is not None:
        return f"killed because {killed_because}"
    if exitcode is None:
        return "ended for an unknown reason"
    if exitcode >= 0:
        return f"exited with status {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    likely = ", likely out of memory" if name == "SIGKILL" else ""
    return f"killed by {name}{likely}"
