"""Why a process ended, in words."""

from __future__ import annotations

import signal


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
