"""Live progress: one line per second on a pipe, one line updated in place on a terminal."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Progress:
    """One look at a running load.

    Attributes:
        elapsed: seconds since the load began.
        rate: requests finished in the last second.
        failures: failed requests so far.
        workers: process ids of the workers that serve.
        upstream_connections: TCP connections to the provider open now.
    """

    elapsed: float
    rate: float
    failures: int
    workers: Sequence[int]
    upstream_connections: int

    def __str__(self) -> str:
        """The line shown."""
        workers = ",".join(map(str, self.workers)) or "none"
        return (
            f"{self.elapsed:4.0f} s  {self.rate:4.0f} req/s  {self.failures} failed  "
            f"workers {workers}  upstream connections {self.upstream_connections}"
        )


class Console:
    """Writes progress and messages to a text stream.

    Args:
        out: the stream; progress is updated in place if it is a terminal.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._in_place = out.isatty()
        self._pending = False

    def progress(self, progress: Progress | str) -> None:
        """Show a line of progress, in place of the previous one on a terminal."""
        if self._in_place:
            width = shutil.get_terminal_size().columns
            self._write(f"\r\x1b[2K{str(progress)[: width - 1]}")
            self._pending = True
        else:
            self._write(f"{progress}\n")

    def message(self, text: str) -> None:
        """Show lines that stay."""
        self.end_progress()
        self._write(f"{text}\n")

    def end_progress(self) -> None:
        """Leave the line of progress, so that other output starts on a new one."""
        if self._pending:
            self._write("\n")
            self._pending = False

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
