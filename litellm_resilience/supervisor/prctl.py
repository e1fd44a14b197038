"""Settings of the own process that only Linux has; elsewhere nothing happens."""

from __future__ import annotations

import contextlib
import ctypes
import sys

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents end, instead of process 1."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def set_name(name: str) -> None:
    """Set what `ps -o comm` shows.

    Args:
        name: at most 15 bytes, what is beyond is cut.
    """
    _prctl(PR_SET_NAME, ctypes.create_string_buffer(name.encode()))


def _prctl(option: int, value: object) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
