"""Whether workers may be forked from this process, decided by looking at it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.importing import importing

if TYPE_CHECKING:
    from collections.abc import Collection

    from typing_extensions import Self


class ImportReads:
    """Which environment variables modules have read while they were imported.

    A forked worker has what the modules made of the environment then, not of the environment it is
    to serve with, which LiteLLM's command completes after its imports. A context manager.
    """

    def __init__(self) -> None:
        self._seen: dict[str, str | None] = {}
        self._originals: tuple[Any, Any] | None = None

    def __enter__(self) -> Self:
        """Begin to watch `os.environ`."""
        environ: Any = type(os.environ)
        read, write = self._originals = (environ.__getitem__, environ.__setitem__)
        seen = self._seen

        def watched_read(environment: Any, name: Any) -> Any:
            value, missing = None, None
            try:
                value = read(environment, name)
            except KeyError as error:
                missing = error
            if environment is os.environ and importing(sys._getframe(1)):
                seen.setdefault(name, value)
            if missing is not None:
                raise missing
            return value

        def watched_write(environment: Any, name: Any, value: Any) -> None:
            write(environment, name, value)
            # A spawned worker's imports would write the same.
            if name in seen and importing(sys._getframe(1)):
                seen[name] = value

        environ.__getitem__, environ.__setitem__ = watched_read, watched_write
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self.stop()

    def stop(self) -> None:
        """Leave `os.environ` as it was. Idempotent."""
        environ: Any = type(os.environ)
        if self._originals is not None:
            environ.__getitem__, environ.__setitem__ = self._originals
            self._originals = None

    def stale(self) -> list[str]:
        """Return the variables whose value has changed since a module has read it."""
        return sorted(name for name, value in self._seen.items() if os.environ.get(name) != value)


def obstacle(stale: Collection[str] = (), known_threads: Collection[str] = ()) -> str | None:
    """Say why workers should not be forked from this process, or return None if they may be.

    Threads do not live on in a forked process, but the locks they held do. Threads of libraries
    that end them before a fork, as OpenBLAS does, are no obstacle: a child is forked on trial, and
    what is left afterwards counts.

    Args:
        stale: environment variables that have changed since a module has read them.
        known_threads: names of threads that are known to hold no lock a worker needs.
    """
    if sys.platform != "linux":
        return f"on {sys.platform} forking is not safe"
    if asyncio._get_running_loop() is not None:
        return "an event loop is running"
    unknown = [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and thread.name not in known_threads
    ]
    if unknown:
        return f"there are other threads: {', '.join(sorted(unknown))}"
    if stale:
        return f"set after modules had read them: {', '.join(sorted(stale))}"
    _fork_on_trial()
    native = _native_threads() - threading.active_count()
    if native > 0:
        return f"there are {native} threads that do not belong to Python"
    return None


def share_memory() -> None:
    """Make the most of the memory that forked workers will share with this process.

    To be called once, when everything is loaded: the garbage collector leaves frozen objects, and
    so their pages, alone. What the imports have left free goes back to the system.
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _fork_on_trial() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of other threads
        child = os.fork()
        if child == 0:
            os._exit(0)
    os.waitpid(child, 0)


def _native_threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())
