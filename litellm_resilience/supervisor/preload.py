"""Decides whether workers may be forked from this process, by looking at the process."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Collection
    from multiprocessing.connection import Connection

THREAD_END_TIMEOUT = 3.0
"""Seconds in which a thread that is at work here may end by itself."""
THREAD_RETURN_TIMEOUT = 1.0
"""Seconds in which a thread may come back in the child that is forked on trial."""
TRIAL_TIMEOUT = 5.0
"""Seconds after which a child that should have answered is taken for hung."""
LOOK_INTERVAL = 0.02
"""Seconds between two looks at the threads."""


def obstacle(stale: Collection[str] = (), known_threads: Collection[str] = ()) -> str | None:
    """Say why workers should not be forked from this process, or return None if they may be.

    Threads do not live on in a forked process, but the locks they held do. A thread is no obstacle
    if it ends by itself, or if its library starts it again in a forked process, as OpenTelemetry
    and ddtrace do: such a library knows of forks and makes its locks anew. Threads that end before
    a fork, as those of OpenBLAS do, are none either. A child is forked on trial to see that.

    Args:
        stale: environment variables that have changed since a module has read them.
        known_threads: names of threads that are known to hold no lock a worker needs.
    """
    if sys.platform != "linux":
        return f"on {sys.platform} forking is not safe"
    if asyncio._get_running_loop() is not None:
        return "an event loop is running"
    if stale:
        return f"set after modules had read them: {', '.join(sorted(stale))}"
    missing = _missing_in_a_child(known_threads)
    if missing:
        _wait_for_ends(known_threads)
        missing = _missing_in_a_child(known_threads)
    return missing and f"a forked worker would miss {missing}"


def share_memory() -> None:
    """Make the most of the memory that forked workers will share with this process.

    To be called once, when everything is loaded: the garbage collector leaves frozen objects, and
    so their pages, alone. What the imports have left free goes back to the system.

    The collector looks at all objects again when there are a quarter more than it found the last
    time. So it has to look once more, and find next to nothing: otherwise a worker would gather
    garbage in proportion to what is frozen, and stand still for longer when that is collected.
    """
    gc.collect()
    gc.freeze()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _others(known: Collection[str]) -> list[str]:
    """Return the names of Python's threads besides this one and the known ones.

    A thread that Python has not started has no name of its own; it counts as one of the others.
    """
    return [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
        and thread.name not in known
        and not isinstance(thread, threading._DummyThread)
    ]


def _wait_for_ends(known: Collection[str]) -> None:
    deadline = time.monotonic() + THREAD_END_TIMEOUT
    while _others(known) and time.monotonic() < deadline:
        time.sleep(LOOK_INTERVAL)


def _missing_in_a_child(known: Collection[str]) -> str | None:
    """Fork a child on trial, and say which threads of this process do not come back in it."""
    here, there = multiprocessing.Pipe()
    names = _others(known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of other threads
        child = os.fork()
    if child == 0:
        _answer(there, Counter(names))
    there.close()
    # Counted after the fork: OpenBLAS ends its threads before.
    threads = _threads() - sum(thread.name in known for thread in threading.enumerate())
    here.send(threads)
    answer = here.recv() if here.poll(THREAD_RETURN_TIMEOUT + TRIAL_TIMEOUT) else None
    if answer is None:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    here.close()
    if answer is None:
        return "its own start: a child that was forked on trial did not answer"
    returned, in_child = answer
    lost = Counter(names) - Counter(returned)
    if lost:
        return f"the threads {', '.join(sorted(lost.elements()))}"
    return f"{threads - in_child} threads that Python did not start" if threads > in_child else None


def _answer(parent: Connection[Any, Any], wanted: Counter[str]) -> NoReturn:
    """Tell the parent which threads this child has, once it has all or does not get more."""
    try:
        threads = parent.recv()
        deadline = time.monotonic() + THREAD_RETURN_TIMEOUT
        while time.monotonic() < deadline:
            if not wanted - Counter(_others(())) and _threads() >= threads:
                break
            time.sleep(LOOK_INTERVAL)
        parent.send((_others(()), _threads()))
    finally:
        os._exit(0)


def _threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())
