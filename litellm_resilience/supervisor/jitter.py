"""A request limit that every worker draws for itself."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from typing_extensions import Self

if TYPE_CHECKING:
    from collections.abc import Callable


def draw(limit: int, jitter: int, source: random.Random | None = None) -> int:
    """Return a limit between `limit` and `limit + jitter` requests, both included."""
    return limit + (source or random).randint(0, jitter)


class JitteredLimit(int):
    """A drawn limit that is drawn anew in each process it is sent to.

    uvicorn below 0.41 has no jitter, but it pickles its `Config` into each worker it spawns: an
    `int` that pickles as "draw again" gives each worker, and each replacement, a limit of its own
    without touching uvicorn. Its value in this process is a draw too, for a single in-process
    worker.

    Args:
        limit: requests after which a worker retires at the earliest.
        jitter: how many requests later it retires at the most.
    """

    least: int
    jitter: int

    def __new__(cls, limit: int, jitter: int) -> Self:
        """Draw this process's limit."""
        self = super().__new__(cls, draw(limit, jitter))
        self.least = limit
        self.jitter = jitter
        return self

    def __reduce__(self) -> tuple[Callable[[int, int], int], tuple[int, int]]:
        """Pickle as an instruction to draw again."""
        return draw, (self.least, self.jitter)
