"""What the workers of a supervisor leave for each other: a text, and when they did what.

It lies in shared memory, without locks, so that a worker may be killed at any moment: half a text
does not fit its checksum, and a turn that is not renewed passes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CAPACITY = 512 * 1024
"""How many bytes a text may have."""
TURN_SECONDS = 10.0
"""How long a turn lasts that is not renewed."""
RENEWAL_SECONDS = 1.0
DEEDS = 8
"""How many kinds of deeds are remembered."""
SETTLING_SECONDS = 0.1
"""After two have taken the turn at once, how long until both see the same one of them in it."""


class Note(ctypes.Structure):
    """The text, when it was written, and who has the turn. Times are of the monotonic clock."""

    _fields_ = (
        ("writer", ctypes.c_uint64),
        ("renewed_at", ctypes.c_double),
        ("written_at", ctypes.c_double),
        ("length", ctypes.c_uint64),
        ("checksum", ctypes.c_uint64),
        ("content", ctypes.c_ubyte * CAPACITY),
        ("done_at", ctypes.c_double * DEEDS),
    )
    writer: int
    """The process that has the turn, or 0."""
    renewed_at: float
    written_at: float
    length: int
    """0 while there is no text."""
    checksum: int
    content: ctypes.Array[ctypes.c_ubyte]
    done_at: ctypes.Array[ctypes.c_double]
    """Of each kind of deed, or 0."""

    def is_due(self, deed: int, interval: float) -> bool:
        """Say whether no worker has done something for so long; if so, it counts as done now.

        Args:
            deed: its number, below `DEEDS`.
            interval: seconds.
        """
        before, now = self.done_at[deed], time.monotonic()
        if before and now < before + interval:
            return False
        self.done_at[deed] = now
        return True

    def read(self) -> tuple[float, bytes] | None:
        """Return when the text was written, and the text; None if there is no whole one."""
        written_at, length, checksum = self.written_at, self.length, self.checksum
        text = bytes(memoryview(self.content)[:length])
        if not text or checksum != _checksum(written_at, text):
            return None
        return written_at, text

    def write(self, text: bytes) -> None:
        """Replace the text.

        Raises:
            ValueError: if it is longer than `CAPACITY`; the old one stays.
        """
        if len(text) > CAPACITY:
            raise ValueError(f"{len(text)} bytes, more than {CAPACITY}")
        written_at = time.monotonic()
        self.length = 0
        ctypes.memmove(self.content, text, len(text))
        self.checksum = _checksum(written_at, text)
        self.written_at = written_at
        self.length = len(text)

    @property
    def is_taken(self) -> bool:
        """Whether a process has the turn."""
        return self.writer != 0 and time.monotonic() < self.renewed_at + TURN_SECONDS

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Take the turn and keep it meanwhile, if it is free; yields whether it was.

        Who sees it free writes its own number, waits, and looks whose number is left. Two have it
        at once only where a process stood still in between for longer than the wait.
        """
        if self.is_taken:
            yield False
            return
        me = os.getpid()
        self.renewed_at, self.writer = time.monotonic(), me
        await asyncio.sleep(SETTLING_SECONDS)
        if self.writer != me:
            yield False
            return
        renewal = asyncio.ensure_future(self._renew(me))
        try:
            yield True
        finally:
            renewal.cancel()
            if self.writer == me:
                self.writer = 0

    async def _renew(self, me: int) -> None:
        while self.writer == me:
            self.renewed_at = time.monotonic()
            await asyncio.sleep(RENEWAL_SECONDS)


def _checksum(written_at: float, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(repr(written_at).encode()))
