"""What stays of a process that has handed over: it keeps the process id that others know.

Run as a program, in the place of the process that was there first: a container's process 1, or the
one that a service manager watches. Signals go on to its successors, and it ends with the status of
the last of them. Needs nothing but the standard library, of which it loads little.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress

TO_ALL = {signal.SIGTERM, signal.SIGINT}
TO_THE_LAST = {getattr(signal, f"SIG{name}") for name in ("HUP", "USR1", "USR2", "TTIN", "TTOU")}
FORWARDED = TO_ALL | TO_THE_LAST
NAME = "litellm-wait"
LOOK_INTERVAL = 5.0
"""Seconds after which it looks at its children even if no signal comes."""


def forward(number: int, heirs: list[int]) -> None:
    """Send a signal to those whom it concerns.

    Args:
        number: of the signal.
        heirs: process ids of the successors, the last one serves.
    """
    for pid in heirs if number in TO_ALL else heirs[-1:]:
        with suppress(OSError):
            os.kill(pid, number)


def told(first: socket.socket) -> list[int]:
    """Return which successors have handed over to others, as those say.

    Args:
        first: the end that belongs to the process that was there first.
    """
    with suppress(BlockingIOError):
        return [int(pid) for pid in first.recv(4096, socket.MSG_DONTWAIT).split()]
    return []


def wait(first: socket.socket, heirs: list[int]) -> int:
    """Wait for the last successor.

    Args:
        first: the end that belongs to this process.
        heirs: process ids of the successors.

    Returns:
        The exit status, as a shell would say it.
    """
    awaited = FORWARDED | {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    while True:
        ended = dict(_reaped())
        heirs += told(first)
        if heirs[-1] in ended:
            status = os.waitstatus_to_exitcode(ended[heirs[-1]])
            return status if status >= 0 else 128 - status
        if not exists(heirs[-1]):
            return 1
        heirs = [pid for pid in heirs if pid not in ended]
        came = signal.sigtimedwait(awaited, LOOK_INTERVAL)
        if came is not None and came.si_signo in FORWARDED:
            heirs += told(first)
            forward(came.si_signo, heirs)


def exists(pid: int) -> bool:
    """Say whether there is such a process, dead ones that nobody has asked for included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _reaped() -> list[tuple[int, int]]:
    """Return which children have ended, with what the system says of their end."""
    found = []
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(ended)
    return found


if __name__ == "__main__":
    with suppress(OSError), open("/proc/self/comm", "w") as comm:  # noqa: PTH123
        comm.write(NAME)
    sys.exit(wait(socket.socket(fileno=int(sys.argv[1])), [int(pid) for pid in sys.argv[2:]]))
