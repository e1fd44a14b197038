"""Two sinks of the proxy under test: one that sends in batches, and one that takes a second."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httpx
from litellm.integrations.custom_batch_logger import CustomBatchLogger
from litellm.integrations.custom_logger import CustomLogger

SECONDS = 1.0
NEVER = 3600.0


async def post(path: str, records: list[Any]) -> None:
    """Send records to `PRODUCTION_SINK`."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        reply = await client.post(f"http://{os.environ['PRODUCTION_SINK']}{path}", json=records)
        reply.raise_for_status()


def record(arguments: dict[str, Any]) -> dict[str, str]:
    """Return what is kept of a reply."""
    return {"id": arguments["standard_logging_object"]["id"]}


class Batches(CustomBatchLogger):  # type: ignore[misc]
    """Sends when asked to, and not by itself for an hour."""

    def __init__(self) -> None:
        super().__init__(flush_lock=asyncio.Lock(), flush_interval=NEVER, batch_size=100)
        asyncio.get_running_loop().create_task(self.periodic_flush())

    async def async_log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Keep a record; a full batch is sent."""
        self.log_queue.append(record(kwargs))
        if len(self.log_queue) >= self.batch_size:
            await self.flush_queue()

    async def async_send_batch(self) -> None:
        """Send what is there."""
        await post("/batch", self.log_queue)


class Slow(CustomLogger):  # type: ignore[misc]
    """Takes a second for each reply."""

    async def async_log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Send a record after a second."""
        await asyncio.sleep(SECONDS)
        await post("/slow", [record(kwargs)])


batches, slow = Batches(), Slow()
