"""Tells the supervisors apart that share PROMETHEUS_MULTIPROC_DIR.

Each takes the lowest place that no other has, by a lock on a file, which the workers it forks
share. Whoever comes after one that has ended goes on counting in its files, so that there are never
more of them than those need that have run at once.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_resilience.repairs.base import require_parameters

if os.name == "posix":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_resilience.repairs.base import Changes

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
MOST_PLACES = 64


def prefix(place: int) -> str:
    """Return how the names of a supervisor's workers begin, up to their rows' numbers.

    No number: LiteLLM 1.106.0 and later would take it for the id of a process, find that there is
    none, and remove its live gauges (litellm/proxy/prometheus_cleanup.py).

    Args:
        place: of the supervisor.
    """
    return f"supervisor{place}worker" if place else "worker"


def take() -> int:
    """Take a place in the directory for as long as this process or one that it forks lives.

    Returns:
        The place; 0 if there is no directory, or no lock can be had in it.
    """
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if directory is None or os.name != "posix":
        return 0
    for place in range(MOST_PLACES):
        try:
            _lock(_lock_path(directory, place))
        except OSError:
            continue
        _forget_live_gauges(directory, place)
        return place
    return 0


def spare_those_in_use(changes: Changes) -> None:
    """Keep LiteLLM's command from wiping a directory that another supervisor's workers write to.

    Args:
        changes: where to note what is replaced.

    Raises:
        ImportError: this LiteLLM wipes none.
        IncompatibleError: what wipes it is not as it was known to be.
    """
    cleanup = importlib.import_module("litellm.proxy.prometheus_cleanup")
    original: Callable[[str], None] = cleanup.wipe_directory
    require_parameters(original, "directory")

    def wipe(directory: str) -> None:
        if os.name != "posix" or not _in_use(directory):
            original(directory)

    changes.replace(cleanup, "wipe_directory", wipe)


def _lock_path(directory: str, place: int) -> Path:
    return Path(directory, f"supervisor{place}.lock")


def _lock(path: Path) -> int:
    """Lock a file, which stays: whoever waits for it must find the same one.

    Returns:
        A descriptor, with which the lock ends.

    Raises:
        OSError: somebody else has the lock, or there can be none.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _in_use(directory: str) -> bool:
    for place in range(MOST_PLACES):
        path = _lock_path(directory, place)
        if not path.exists():
            return False
        try:
            os.close(_lock(path))
        except OSError:
            return True
    return False


def _forget_live_gauges(directory: str, place: int) -> None:
    """Remove what the last to have this place left, if its end was too sudden to do so."""
    for path in Path(directory).glob(f"gauge_live*_{prefix(place)}*.db"):
        with contextlib.suppress(OSError):
            path.unlink()
