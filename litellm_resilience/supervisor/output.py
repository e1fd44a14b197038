"""Keeps a full disk or a closed pipe from turning output into exceptions.

LiteLLM prints while it starts. Where its log cannot be written, each replacement would fail.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer

STREAMS = ("stdout", "stderr")


@contextlib.contextmanager
def lossy_output() -> Iterator[None]:
    """Inside the context, let what cannot be written to `sys.stdout` and `sys.stderr` be lost.

    Streams that are no text files, such as those of a test, are left alone.
    """
    before = {name: getattr(sys, name) for name in STREAMS}
    for name, stream in before.items():
        setattr(sys, name, _lossy(stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            with contextlib.suppress(AttributeError, ValueError):
                getattr(sys, name).flush()
            setattr(sys, name, stream)


def _lossy(stream: object) -> object:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        stream.flush()
        raw = _LossyFile(stream.fileno())
    except (OSError, ValueError):
        return stream
    buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _LossyFile(io.RawIOBase):
    """A file descriptor of somebody else's that takes everything."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        rest = memoryview(data).cast("B")
        length = len(rest)
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        return length
