"""Lines that stay, and on a terminal one line of progress that is updated in place."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True)
class Progress:
    """One look at a running load.

    Attributes:
        elapsed: seconds since the load began.
        rate: requests finished in the last second.
        failures: failed requests so far.
        workers: how many workers serve.
    """

    elapsed: float
    rate: float
    failures: int
    workers: int

    def __str__(self) -> str:
        """The line shown."""
        serve = "worker serves" if self.workers == 1 else "workers serve"
        return (
            f"{self.elapsed:5.1f} s  {self.rate:.0f} requests per second, {self.failures} failed, "
            f"{self.workers} {serve}"
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

    def progress(self, progress: Progress) -> None:
        """Show a line of progress in place of the previous one; on a terminal only."""
        if self._in_place:
            width = shutil.get_terminal_size().columns
            self._write(f"\r\x1b[2K{str(progress)[: width - 1]}")
            self._pending = True

    def message(self, text: str) -> None:
        """Show lines that stay."""
        if self._pending:
            self._write("\r\x1b[2K")
            self._pending = False
        self._write(f"{text}\n")

    def end_progress(self) -> None:
        """Leave the line of progress, so that other output starts on a new one."""
        if self._pending:
            self._write("\n")
            self._pending = False

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
