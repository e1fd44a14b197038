"""Requests at a fixed rate, whether or not the earlier ones were answered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from litellm_resilience.demo.load import KeepAliveClient, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH = "/v1/chat/completions"
PATIENCE = 120.0
"""Seconds a client waits for its reply: longer than any time without a worker."""


@dataclass
class Tally:
    """What became of the requests.

    Attributes:
        sent: requests started.
        failed: requests without a complete reply of status 2xx or 3xx.
    """

    sent: int = 0
    failed: int = 0


async def send_at_rate(
    host: str,
    port: int,
    *,
    rate: float,
    seconds: float,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
) -> Tally:
    """POST requests at equal intervals, each over a connection of its own.

    New connections are what the workers of a shared socket share evenly; a kept connection stays
    with its worker.

    Args:
        host: address of the server.
        port: its TCP port.
        rate: requests per second.
        seconds: how long to go on.
        body: JSON body of each request.
        headers: header fields of each request.
    """
    tally = Tally()

    async def send() -> None:
        fields = {**headers, "Connection": "close"}
        async with KeepAliveClient(host, port, headers=fields, timeout=PATIENCE) as client:
            try:
                reply = await client.request("POST", PATH, body)
            except RequestError:
                tally.failed += 1
            else:
                tally.failed += reply.failure is not None

    loop = asyncio.get_running_loop()
    began = loop.time()
    tasks: set[asyncio.Task[None]] = set()
    while (due := began + tally.sent / rate) < began + seconds:
        await asyncio.sleep(max(0.0, due - loop.time()))
        tally.sent += 1
        task = asyncio.create_task(send())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return tally
