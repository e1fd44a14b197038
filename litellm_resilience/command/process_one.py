"""Process 1 of a container that has no init.

The kernel keeps a signal from process 1 that has no handler for it, so a SIGTERM while LiteLLM is
being imported would be lost; and it gives process 1 all orphans, which somebody must reap. So
process 1 becomes a small parent that passes signals on and reaps, and the command its child.
"""

from __future__ import annotations

import os
import signal

from litellm_resilience.supervisor.child import expect_children
from litellm_resilience.supervisor.title import name_process

SIGNAL_STATUS = 128
"""Added to the number of the signal that has ended the command, for the exit status."""
FIRST_PASSED_SOCKET = 3


def stand_in() -> None:
    """If this is process 1, return in a child of it only; it ends as the child does."""
    if os.getpid() != 1:
        return
    expect_children()
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child = os.fork()
    except OSError:  # no more processes: it has to do without
        child = 0
    if child:
        _let_go_of_sockets()
        name_process("init")
        os._exit(_attend(child))
    if os.environ.get("LISTEN_PID") == "1":
        os.environ["LISTEN_PID"] = str(os.getpid())
    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


def _let_go_of_sockets() -> None:
    """Close the listening sockets that were passed to the command."""
    passed = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") == "1" and passed.isdecimal():
        os.closerange(FIRST_PASSED_SOCKET, FIRST_PASSED_SOCKET + int(passed))


def _attend(command: int) -> int:
    """Pass signals on to the command and reap, until it has ended; return the exit status."""
    while True:
        came = signal.sigwaitinfo(signal.valid_signals())
        if came.si_signo == signal.SIGCHLD:
            status = _reap(command)
            if status is not None:
                return status if status >= 0 else SIGNAL_STATUS - status
        elif came.si_code <= 0:  # the terminal's signals reach the command as well
            os.kill(command, came.si_signo)


def _reap(command: int) -> int | None:
    """Reap all that have ended; return how the command has, if it has."""
    ended = None
    while ended is None:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            break
        if pid == command:
            ended = os.waitstatus_to_exitcode(status)
    return ended
