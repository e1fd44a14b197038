"""Spend is in the database before its worker ends.

LiteLLM writes it once a minute. Before 1.98 nothing writes it at a shutdown; from then on LiteLLM
writes part of it, or all, after this: what is written is not written again.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from litellm_resilience.records.flush import Sink
from litellm_resilience.repairs.base import Outcome, PatchState, require, require_async

if TYPE_CHECKING:
    from litellm_resilience.repairs.base import Context

JOBS = ("update_spend", "update_daily_tag_spend")
"""LiteLLM's scheduled jobs that write spend; the second is part of the first in older ones."""
QUEUES = ("spend_log_transactions", "tool_usage_transactions", "model_usage_transactions")


def apply(context: Context) -> Outcome:
    """Run LiteLLM's own jobs once more at the end."""
    server: Any = context.proxy_server
    utilities = importlib.import_module("litellm.proxy.utils")
    require(server, "prisma_client", "db_writer_client", "proxy_logging_obj")
    first, *others = JOBS
    jobs = [require_async(utilities, first, "prisma_client")]
    jobs += [require_async(utilities, name) for name in others if hasattr(utilities, name)]

    def held() -> int:
        return sum(len(getattr(server.prisma_client, queue, ())) for queue in QUEUES)

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
