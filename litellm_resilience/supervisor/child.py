"""The first steps of a process that was forked from the supervisor."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def run(task: Callable[..., object], arguments: Iterable[Any], inherited: Iterable[Any]) -> None:
    """Do a task in a forked process.

    Args:
        task: what to do.
        arguments: what to call it with.
        inherited: what belongs to the supervisor: closed here, or the others would not notice its
            end.
    """
    signal.set_wakeup_fd(-1)
    default_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    for resource in inherited:
        resource.close()
    task(*arguments)


def expect_children() -> None:
    """Have the system keep the exit statuses of children, whoever has started this process.

    One that ignores SIGCHLD passes that on, and statuses are thrown away.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


def default_signals() -> None:
    """Answer signals as one of several: the supervisor, not the terminal, decides when to end.

    Until a worker serves it has nothing to lose. From then on uvicorn handles SIGINT and SIGTERM,
    and raises them again after its drain.
    """
    for name in ("SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR2", "SIGINT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _ignore)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _ignore(*_: object) -> None:
    """Stand in for SIG_IGN, which the processes that a worker starts would inherit."""
