"""Spend is in the database before its worker ends.

LiteLLM writes it once a minute. Before 1.98 nothing writes it at a shutdown; from then on LiteLLM
writes part of it, or all, after this: what is written is not written again.

From 1.102 on, a sidecar may write it (litellm/proxy/collector.py). What that does not take in time
becomes rows of the worker, if the operator has not chosen otherwise, and these are written too.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
from typing import TYPE_CHECKING, Any

from litellm_resilience.records.flush import Sink
from litellm_resilience.repairs.base import Outcome, PatchState, require, require_async
from litellm_resilience.repairs.spend_rows import WrittenRows

if TYPE_CHECKING:
    from litellm_resilience.repairs.base import Context

JOBS = ("update_spend", "update_daily_tag_spend")
"""LiteLLM's scheduled jobs that write spend; the second is part of the first in older ones."""
WHOLE_JOB = "update_spend_logs_job"
PRODUCER = "spend_event_producer"
SPEND_LOGS = "spend_log_transactions"
QUEUES = (
    SPEND_LOGS,
    "tool_usage_transactions",
    "model_usage_transactions",
    "autorouter_turn_transactions",
    "baseline_accounting_transactions",
)
WRITE_LOCK = "spend_log_write_lock"
SIDECAR_SECONDS = 1.0
"""For a sidecar to take what waits for it. LiteLLM's own shutdown gives one that hangs 10 s."""


def apply(context: Context) -> Outcome:
    """Run LiteLLM's own jobs once more at the end."""
    server: Any = context.proxy_server
    utilities = importlib.import_module("litellm.proxy.utils")
    require(server, "prisma_client", "db_writer_client", "proxy_logging_obj")
    first, *others = JOBS
    jobs = [require_async(utilities, first, "prisma_client")]
    jobs += [require_async(utilities, name) for name in others if hasattr(utilities, name)]

    enqueue = getattr(utilities, "enqueue_spend_logs", None)
    written = WrittenRows(SPEND_LOGS, enqueue, context.log)
    if not hasattr(utilities.PrismaClient, WRITE_LOCK):
        _follow(context, utilities, written)

    def held() -> int:
        queued = sum(len(getattr(server.prisma_client, queue, ())) for queue in QUEUES)
        return queued + written.number(server.prisma_client) + _for_sidecar(server)

    async def flush() -> None:
        try:
            await _leave_sidecar(server)
        finally:
            await write()
        # LiteLLM's own task may have taken rows just before.
        while await written.waited():
            await write()
        # From 1.104 on that task has a lock; LiteLLM's shutdown would cancel it while it writes.
        lock = getattr(server.prisma_client, WRITE_LOCK, None)
        if lock is not None:
            async with lock:
                pass

    async def write() -> None:
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


def _follow(context: Context, utilities: Any, written: WrittenRows) -> None:
    """Know what LiteLLM's own task is writing, and keep what it could not write."""
    owner = utilities.ProxyUpdateSpend
    update = require_async(owner, "update_spend_logs", "n_retry_times", "prisma_client")
    context.changes.replace(owner, update.__name__, staticmethod(written.kept(update)))
    # It goes on after the rows: the tools that they name, for example.
    if hasattr(utilities, WHOLE_JOB):
        job = require_async(utilities, WHOLE_JOB, "prisma_client")
        context.changes.replace(utilities, WHOLE_JOB, written.awaited(job))


def apply_sidecar(context: Context) -> Outcome:
    """Have each record leave this process before the next one is said to be sent.

    Else LiteLLM counts as sent what its transport holds, and forgets it with the connection.
    """
    try:
        producers = importlib.import_module("litellm.proxy.spend_tracking.spend_event_producer")
    except ImportError:
        return Outcome(PatchState.NOT_NEEDED, "this LiteLLM has no collector sidecar")
    require(producers, "SpendEventProducer")
    connect = require_async(producers.SpendEventProducer, "_connect", "self")

    @functools.wraps(connect)
    async def connected(self: Any) -> Any:
        connection = await connect(self)
        if connection is not None:
            connection.writer.transport.set_write_buffer_limits(0)
        return connection

    context.changes.replace(producers.SpendEventProducer, "_connect", connected)
    return Outcome(PatchState.APPLIED, "what a collector sidecar has not taken is not forgotten")


def _for_sidecar(server: Any) -> int:
    """Return how many records wait for a sidecar, if there is one."""
    producer: Any = getattr(server, PRODUCER, None)
    queue = getattr(producer, "_queue", None)
    return 0 if queue is None else queue.qsize() + (producer._in_flight is not None)


async def _leave_sidecar(server: Any) -> None:
    """Wait until a sidecar has all; let the worker have what one that hangs does not take."""
    producer: Any = getattr(server, PRODUCER, None)
    queue = getattr(producer, "_queue", None)
    if queue is None:
        return
    try:
        await asyncio.wait_for(queue.join(), SIDECAR_SECONDS)
    except asyncio.TimeoutError:
        await producer.close(drain_timeout=0)
        # LiteLLM's shutdown would wait for what has just been taken out of it.
        producer._queue = None
