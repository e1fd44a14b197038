"""Reloads when the content of the config file has changed; a service of the supervisor."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litellm_resilience.supervisor.journal import Journal
    from litellm_resilience.supervisor.loop import Supervisor

INTERVAL = 1.0
"""Seconds between two looks at the file."""
LARGEST = 16 * 1024 * 1024
"""Bytes; whatever is larger is no config."""


def content(path: str) -> bytes | None:
    """Return a hash of a file's content; None if there is none that a worker could read.

    Never waits for a writer, as reading a pipe would.

    Args:
        path: of the file; links are followed, as Kubernetes makes them.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError):
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            return None
        with open(descriptor, "rb", closefd=False) as file:
            text = file.read(LARGEST)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return hashlib.sha256(text).digest() if text.strip() else None


class ConfigWatch:
    """Compares what is in the file with what the workers have read.

    To be made before the first worker is started.

    Args:
        path: of the config file.
        supervisor: what reloads, also when others ask for it.
        journal: told what happens.
    """

    waitables: Sequence[Any] = ()

    def __init__(self, path: str, supervisor: Supervisor, journal: Journal) -> None:
        self._path = path
        self._supervisor = supervisor
        self._journal = journal
        self._look_at = 0.0
        self._seen = self._serving = content(path)
        self._tried: bytes | None = None
        self._rejected: bytes | None = None
        self._settled = True
        self._mixed = False
        self._missed = 0
        self._reloads = supervisor.reloads
        self._taken_back = supervisor.taken_back
        self._started = supervisor.started

    def attend(self, now: float, inherited: Sequence[Any]) -> None:
        """Reload if it is time to look and two looks in a row have found the same new content.

        Args:
            now: seconds of the supervisor's clock.
            inherited: unused, nothing is forked here.
        """
        del inherited
        if self._supervisor.ending:
            return
        if self._reloads != self._supervisor.reloads:
            self._begin()
        if now < self._look_at:
            return
        self._look_at = now + INTERVAL
        found, before = content(self._path), self._seen
        self._seen = found
        self._note_missing(found)
        self._note_started(found)
        if self._supervisor.rolling:
            return
        self._settle()
        if found is None or found != before or found in (self._serving, self._rejected):
            return
        self._journal.config_changed(self._path)
        self._supervisor.reload("started before the config file changed", now)
        self._begin()

    def _begin(self) -> None:
        """Note which content a reload tries, whoever has asked for it."""
        self._reloads = self._supervisor.reloads
        self._tried = content(self._path)
        self._settled = False

    def _settle(self) -> None:
        """Note what has become of a reload."""
        if not self._settled:
            self._settled = True
            if self._taken_back != self._supervisor.taken_back:
                self._rejected = self._tried
            else:
                self._serving, self._rejected = self._tried, None
        self._taken_back = self._supervisor.taken_back
        if self._mixed:
            self._mixed, self._serving = False, None

    def _note_started(self, found: bytes | None) -> None:
        """Note if a worker may have read another content than the others.

        They serve different things then: any content that is not rejected is a reason to reload.
        """
        started, self._started = self._started, self._supervisor.started
        expected = self._serving if self._settled else self._tried
        if started != self._started and found not in (None, expected):
            self._mixed = True

    def _note_missing(self, found: bytes | None) -> None:
        """Say it once if there is nothing to read at two looks in a row."""
        self._missed = self._missed + 1 if found is None else 0
        if self._missed == 2:  # noqa: PLR2004
            self._journal.config_missing(self._path)

    def close(self) -> None:
        """Hold nothing that a worker must not have."""

    def end(self) -> None:
        """Hold nothing."""
