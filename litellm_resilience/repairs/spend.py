"""Spend is in the database before its worker ends.

LiteLLM writes it once a minute. Before 1.98 nothing writes it at a shutdown; from then on LiteLLM
writes part of it, or all, after this: what is written is not written again. Before 1.106 LiteLLM
forgets rows that it could not write, as while the database is being connected anew.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import TYPE_CHECKING, Any

from litellm_resilience.records.flush import Sink
from litellm_resilience.repairs.base import Outcome, PatchState, require, require_async

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litellm_resilience.repairs.base import Context

JOBS = ("update_spend", "update_daily_tag_spend")
"""LiteLLM's scheduled jobs that write spend; the second is part of the first in older ones."""
SPEND_LOGS = "spend_log_transactions"
QUEUES = (SPEND_LOGS, "tool_usage_transactions", "model_usage_transactions")
MAX_KEPT = 10_000
"""Rows: as many as LiteLLM writes at once."""


def apply(context: Context) -> Outcome:
    """Run LiteLLM's own jobs once more at the end."""
    server: Any = context.proxy_server
    utilities = importlib.import_module("litellm.proxy.utils")
    require(server, "prisma_client", "db_writer_client", "proxy_logging_obj")
    first, *others = JOBS
    jobs = [require_async(utilities, first, "prisma_client")]
    jobs += [require_async(utilities, name) for name in others if hasattr(utilities, name)]

    written = _Written()
    if not hasattr(utilities, "requeue_spend_logs"):
        update = require_async(
            utilities.ProxyUpdateSpend, "update_spend_logs", "n_retry_times", "prisma_client"
        )
        kept = staticmethod(written.kept(update))
        context.changes.replace(utilities.ProxyUpdateSpend, update.__name__, kept)

    def held() -> int:
        queued = sum(len(getattr(server.prisma_client, queue, ())) for queue in QUEUES)
        return queued + written.number(server.prisma_client)

    async def flush() -> None:
        given = {
            "prisma_client": server.prisma_client,
            "db_writer_client": server.db_writer_client,
            "proxy_logging_obj": server.proxy_logging_obj,
        }
        for job in jobs:
            if server.prisma_client is not None:
                wanted = inspect.signature(job).parameters
                await job(**{name: value for name, value in given.items() if name in wanted})

    context.flush.add(lambda: (Sink("spend", held, flush),))
    return Outcome(PatchState.APPLIED, "spend is written before a worker ends")


class _Written:
    """The rows that are being written, which LiteLLM has taken out of its queue."""

    def __init__(self) -> None:
        self._attempts: dict[object, list[Any]] = {}

    def kept(self, update: Any) -> Any:
        """Return a job that puts back what it could not write; the database skips duplicates."""

        @functools.wraps(update)
        async def updated(*args: Any, **kwargs: Any) -> Any:
            client = inspect.signature(update).bind(*args, **kwargs).arguments["prisma_client"]
            attempt = object()
            self._attempts[attempt] = rows = list(getattr(client, SPEND_LOGS))
            try:
                return await update(*args, **kwargs)
            except BaseException:
                queue = getattr(client, SPEND_LOGS)
                setattr(client, SPEND_LOGS, [*_besides(rows, queue), *queue][:MAX_KEPT])
                raise
            finally:
                del self._attempts[attempt]

        return updated

    def number(self, client: Any) -> int:
        """Return how many rows are being written and not in a client's queue."""
        rows = {id(row): row for attempt in self._attempts.values() for row in attempt}
        return len(_besides(rows.values(), getattr(client, SPEND_LOGS, ())))


def _besides(rows: Iterable[Any], queue: Iterable[Any]) -> list[Any]:
    """Return the rows that are not in a queue."""
    there = {id(row) for row in queue}
    return [row for row in rows if id(row) not in there]
