"""Settings of the own process that only Linux has; elsewhere nothing happens."""

from __future__ import annotations

import contextlib
import ctypes
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Have orphaned descendants of this process become its children."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(number: int) -> None:
    """Have the kernel send a signal to this process when its parent ends; 0 for none.

    The parent is the thread that has started this process.
    """
    _prctl(PR_SET_PDEATHSIG, number)


def set_name(name: str) -> None:
    """Set what `ps -o comm` shows.

    Args:
        name: at most 15 bytes, what is beyond is cut.
    """
    _prctl(PR_SET_NAME, name.encode())


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
