"""What `ps` calls a process."""

from __future__ import annotations

import ctypes
import importlib
import sys
from contextlib import suppress

PREFIX = "litellm-"
PR_SET_NAME = 15


def name_process(role: str) -> None:
    """Tell this process from the others that make up a proxy.

    With setproctitle installed also in front of the command line.

    Args:
        role: `super`, `templ` or `w` and a worker's number; seven characters are shown.
    """
    name = f"{PREFIX}{role}"
    with suppress(ImportError):
        command = " ".join(sys.orig_argv)
        importlib.import_module("setproctitle").setproctitle(f"{name}: {command}")
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
