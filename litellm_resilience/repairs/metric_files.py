"""Metric files that a full disk cannot turn into the death of a worker.

`prometheus_client` maps files that are longer than the space they have; where the disk is full, the
first write to such a page ends the process with SIGBUS (prometheus_client/mmap_dict.py). Here the
space is reserved first. Counts for which there is none are kept in memory, where the other workers
do not see them.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import IncompatibleError, require_parameters

if TYPE_CHECKING:
    import logging

FIRST_FILE_SIZE = 1 << 16
"""Bytes of a new file, which prometheus_client doubles when they do not do."""
ENTRY_OVERHEAD = 4 + 8 + 16
"""Bytes of an entry beside its key: length, padding, value and time."""


def possible() -> bool:
    """Say whether this platform can reserve space and has files in memory."""
    return hasattr(os, "posix_fallocate") and hasattr(os, "memfd_create")


def reserving(base: Any, log: logging.Logger) -> Any:
    """Return a class like `prometheus_client`'s `MmapedDict` that reserves the space it maps.

    Args:
        base: that class.
        log: told once if there is no space.

    Raises:
        IncompatibleError: the class is not as it was known to be.
    """
    require_parameters(base.__init__, "self", "filename", "read_mode")
    require_parameters(base._init_value, "self", "key")
    full = _Full(log)

    class ReservedDict(base):  # type: ignore[misc]
        _f: Any
        _m: Any
        _used: int
        _capacity: int

        def __init__(self, filename: str, read_mode: bool = False) -> None:
            if read_mode:
                super().__init__(filename, read_mode=True)
                return
            try:
                _reserve(filename)
            except OSError as error:
                full.say(error)
                with os.fdopen(os.memfd_create("metrics"), "rb") as memory:
                    super().__init__(f"/proc/self/fd/{memory.fileno()}")
            else:
                super().__init__(filename)

        def _init_value(self, key: str) -> None:
            needed = self._used + len(key.encode()) + ENTRY_OVERHEAD
            size = self._capacity
            while size < needed:
                size *= 2
            if size > self._capacity:
                try:
                    os.posix_fallocate(self._f.fileno(), 0, size)
                except OSError as error:
                    full.say(error)
                    self._move_to_memory(size)
            super()._init_value(key)

        def _move_to_memory(self, size: int) -> None:
            memory = os.fdopen(os.memfd_create("metrics"), "r+b", buffering=0)
            memory.truncate(size)
            mapped = mmap.mmap(memory.fileno(), size)
            mapped[: self._used] = self._m[: self._used]
            self._f.close()
            self._f, self._m, self._capacity = memory, mapped, size

    _try_out(ReservedDict)
    return ReservedDict


def _reserve(path: str) -> None:
    """Make the file if it is not there, and have the disk keep what it may be written to.

    It appears with its space: prometheus_client cannot read an empty one, and every scrape reads
    the files of all workers.
    """
    try:
        with open(path, "r+b") as file:  # noqa: PTH123 - as prometheus_client opens it
            size = os.fstat(file.fileno()).st_size
            os.posix_fallocate(file.fileno(), 0, size or FIRST_FILE_SIZE)
    except FileNotFoundError:
        unfinished = Path(f"{path}.new")
        try:
            with unfinished.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, FIRST_FILE_SIZE)
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


def _try_out(reserved: Any) -> None:
    """Use the class once, on a file in memory.

    Raises:
        IncompatibleError: it does not work.
    """
    try:
        with os.fdopen(os.memfd_create("metrics"), "rb") as memory:
            tried = reserved(f"/proc/self/fd/{memory.fileno()}")
        for number in range(2):
            tried.read_value(str(number) + "x" * FIRST_FILE_SIZE)
            tried._move_to_memory(tried._capacity * 2)
        tried.close()
    except Exception as error:
        raise IncompatibleError(f"MmapedDict cannot be given its space: {error}") from error


class _Full:
    """Says once in each process that there is no space."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: int | None = None

    def say(self, error: OSError) -> None:
        if self._told != os.getpid():
            self._told = os.getpid()
            self._log.warning(
                "litellm-resilience: No space for metrics in PROMETHEUS_MULTIPROC_DIR (%s): "
                "those of this worker are incomplete from now on",
                error.strerror or error,
            )
