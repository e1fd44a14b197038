"""What `ps` calls a process."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress

from litellm_resilience.supervisor import prctl

PREFIX = "litellm-"


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
    prctl.set_name(name)


def worker_name(number: int, pid: int | None) -> str:
    """Return what a worker is called in the log.

    Args:
        number: identifies it.
        pid: its process id.
    """
    return f"worker {number} (pid {pid})"
