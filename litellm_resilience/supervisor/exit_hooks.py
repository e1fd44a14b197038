"""Which exit hooks a forked worker has, and how it runs them at its end.

A fork copies what `atexit` knows. What was registered during an import is the worker's, as it would
be if the worker had imported the module itself. What the command registered for itself, and what
ends a process or removes files that the siblings use, stays with the parent.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.importing import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXIT_TIMEOUT = 5.0
"""Seconds that a worker's threads and exit hooks may take in all, or it ends without the rest."""

_OWNERS = (BaseProcess, subprocess.Popen, tempfile.TemporaryDirectory)
_REMOVERS = (shutil.rmtree, os.remove, os.unlink, os.rmdir)

_atexit: Any = atexit
_threading: Any = threading
_register = atexit.register
_clear = _atexit._clear
_of_the_parent: list[Callable[..., object]] = []


def watch() -> None:
    """Note from now on which hooks are this process's own; see `worker_hooks`. Idempotent."""
    _atexit.register = _noting_register


def _noting_register(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    tied = isinstance(getattr(function, "__self__", None), _OWNERS)
    if tied or function in _REMOVERS or not importing(sys._getframe(1)):
        _of_the_parent.append(function)
    return _register(function, *args, **kwargs)


@contextlib.contextmanager
def kept_through_fork() -> Iterator[None]:
    """Keep `multiprocessing` from clearing the hooks in a child, as it does from Python 3.13 on."""
    _atexit._clear = lambda: None
    try:
        yield
    finally:
        _atexit._clear = _clear


@contextlib.contextmanager
def worker_hooks(limit: float = EXIT_TIMEOUT) -> Iterator[None]:
    """Leave the parent's hooks to it, and run the others when the block has ended, in any way.

    Args:
        limit: seconds after which the process ends with the status it would have had anyway.
    """
    _leave_the_parents()
    status: Any = 1
    try:
        yield
        status = 0
    except SystemExit as end:
        status = end.code
        raise
    finally:
        number = status if isinstance(status, int) else int(status is not None)
        run(limit, lambda: _give_up(limit, number))


def _leave_the_parents() -> None:
    _atexit.register, _atexit._clear = _register, _clear
    for function in _of_the_parent:
        atexit.unregister(function)
    for finalizer in list(_registered_finalizers()):
        finalizer.atexit = False


def _registered_finalizers() -> Any:
    """Return what frees a resource at the end: the process's end does, and files are shared."""
    finalize: Any = weakref.finalize
    return getattr(finalize, "_registry", ())


def run(limit: float, late: Callable[[], None]) -> None:
    """Do what the interpreter does at its end: wait for threads, then run the hooks.

    Args:
        limit: seconds that this may take.
        late: called in a thread if it takes longer; ends the process.
    """
    timer = threading.Timer(limit, late)
    timer.daemon = True
    timer.start()
    _threading._shutdown()
    _atexit._run_exitfuncs()
    timer.cancel()


def _give_up(limit: float, status: int) -> None:
    with contextlib.suppress(Exception):
        sys.stderr.write(f"Threads or exit hooks did not end within {limit:g} s:\n")
        faulthandler.dump_traceback(all_threads=True)
    os._exit(status)
