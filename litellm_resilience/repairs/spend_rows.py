"""The rows of spend that LiteLLM has taken out of its queue and is writing.

Before 1.98 LiteLLM forgets those that it could not write, as while the database is being connected
anew; from then on it puts back some of them, and from 1.104 on all. Rows that the database refuses
are LiteLLM's to drop: put back, they would keep all others from being written.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import sys
import traceback
from typing import TYPE_CHECKING, Any

import httpx

from litellm_resilience.records.under_way import UnderWay

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Iterable

MAX_KEPT = 10_000
"""Rows: as many as LiteLLM writes at once."""
OUTAGES = (asyncio.CancelledError, asyncio.TimeoutError, OSError, httpx.TransportError)
TRANSIENT = ("P1", "P2024", "P2028", "P2034", "P2037")
"""How Prisma's codes begin where the same rows may be taken later: no connection (P1001 and more),
no connection free, a transaction that could not begin, a deadlock, too many connections."""
SQL_STATE = re.compile(r'code: "(\w\w)\w{3}"')
"""What Prisma says of PostgreSQL's errors that it has no code for: first their class."""
REFUSALS = frozenset({"22", "23", "42"})
"""Classes: the data, a constraint, the statement."""


class WrittenRows:
    """What is being written now.

    Args:
        queue: the attribute of LiteLLM's client that holds the rows.
        enqueue: LiteLLM's function that puts rows back; it has one where it does so itself when
            a write is cancelled.
        log: told of rows that cannot be kept.
    """

    def __init__(
        self, queue: str, enqueue: Callable[..., Awaitable[None]] | None, log: logging.Logger
    ) -> None:
        self._queue = queue
        self._enqueue = enqueue
        self._log = log
        self._under_way: UnderWay[list[Any]] = UnderWay()

    def kept(self, update: Any) -> Any:
        """Return a job that puts back what it could not write; the database skips duplicates.

        Args:
            update: writes the rows it is given, or those of the queue.
        """

        @functools.wraps(update)
        async def updated(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(update).bind(*args, **kwargs).arguments
            client = given["prisma_client"]
            rows = list(given.get("logs_to_process") or getattr(client, self._queue))
            with self._under_way.attempt(rows):
                try:
                    return await update(*args, **kwargs)
                except BaseException as error:
                    if is_outage(error):
                        await self._put_back(client, rows, error)
                    raise

        return updated

    def awaited(self, job: Any) -> Any:
        """Return a job that `waited` waits for."""

        @functools.wraps(job)
        async def noted(*args: Any, **kwargs: Any) -> Any:
            with self._under_way.attempt([]):
                return await job(*args, **kwargs)

        return noted

    async def _put_back(self, client: Any, rows: list[Any], error: BaseException) -> None:
        queue = getattr(client, self._queue)
        missing = _besides(rows, queue)
        if not missing:
            return
        if self._enqueue is not None:
            if not isinstance(error, asyncio.CancelledError):
                await self._enqueue(client, missing, at_head=True)
            return
        kept = missing[: max(0, MAX_KEPT - len(queue))]
        setattr(client, self._queue, [*kept, *queue])
        if len(kept) < len(missing):
            self._log.warning(
                "litellm-resilience: %d rows of spend are lost: the database takes none, "
                "and %d wait for it",
                len(missing) - len(kept),
                MAX_KEPT,
            )

    async def waited(self) -> bool:
        """Wait for what is being written; say whether there was anything."""
        return await self._under_way.waited()

    def number(self, client: Any) -> int:
        """Return how many rows are being written and not in a client's queue."""
        rows = {id(row): row for attempt in self._under_way.all() for row in attempt}
        return len(_besides(rows.values(), getattr(client, self._queue, ())))


def _besides(rows: Iterable[Any], queue: Iterable[Any]) -> list[Any]:
    """Return the rows that are not in a queue."""
    there = {id(row) for row in queue}
    return [row for row in rows if id(row) not in there]


def is_outage(error: BaseException | None) -> bool:
    """Say whether the database was not there, rather than refused what it was given.

    Args:
        error: that a write has raised; what it was raised from counts too.
    """
    errors: Any = sys.modules.get("prisma.errors")
    while error is not None:
        if errors is not None and isinstance(error, errors.DataError):
            return not _refuses(error)
        if errors is not None and isinstance(error, errors.PrismaError):
            return True
        if isinstance(error, OUTAGES) or _of_the_engine(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _refuses(error: Any) -> bool:
    if error.code is not None:
        return not str(error.code).startswith(TRANSIENT)
    state = SQL_STATE.search(str(error))
    return state is not None and state[1] in REFUSALS


def _of_the_engine(error: BaseException) -> bool:
    """Say whether Prisma's client fails to tell what its engine says, as while that ends."""
    frames = traceback.walk_tb(error.__traceback__)
    modules = (frame.f_globals.get("__name__", "") for frame, _ in frames)
    return any(module.startswith("prisma.engine") for module in modules)
