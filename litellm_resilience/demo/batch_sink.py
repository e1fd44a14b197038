"""Sends the ids of replies in batches to the demo's provider, as a LiteLLM callback.

LiteLLM's loggers for Langsmith, Datadog or S3 work like this: a record waits in the worker until
the next batch. Each request tells the provider which worker it comes from. The proxy loads a copy
of this file, which must import nothing of this package.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from typing import Any

import aiohttp

URL = "DEMO_RECORDS_URL"
"""The environment variable that says where batches go to."""
GREETING = "Hello from worker "
"""What the provider is told, before the worker's process id."""
SECONDS = 3
"""Between two batches."""


def make_handler() -> Any:
    """A LiteLLM ``CustomBatchLogger``.

    Raises:
        ImportError: LiteLLM is not installed.
    """
    module = importlib.import_module("litellm.integrations.custom_batch_logger")
    base: Any = module.CustomBatchLogger

    class BatchSink(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(flush_lock=asyncio.Lock(), flush_interval=SECONDS)
            self.flushing: asyncio.Task[None] | None = None

        async def async_pre_call_hook(
            self,
            user_api_key_dict: Any,  # noqa: ARG002
            cache: Any,  # noqa: ARG002
            data: dict[str, Any],
            call_type: str,  # noqa: ARG002
        ) -> dict[str, Any]:
            data["messages"] = [{"role": "user", "content": f"{GREETING}{os.getpid()}"}]
            return data

        async def async_log_success_event(
            self,
            kwargs: Any,  # noqa: ARG002
            response_obj: Any,
            start_time: Any,  # noqa: ARG002
            end_time: Any,  # noqa: ARG002
        ) -> None:
            if self.flushing is None:
                self.flushing = asyncio.create_task(self.periodic_flush())
            self.log_queue.append(response_obj["id"])

        async def async_send_batch(self, *_: Any, **__: Any) -> None:
            batch = list(self.log_queue)
            async with (
                aiohttp.ClientSession() as session,
                session.post(os.environ[URL], json={"ids": batch}) as reply,
            ):
                reply.raise_for_status()

    return BatchSink()


def __getattr__(name: str) -> Any:
    # Made when LiteLLM asks for it, so that others can import the constants without LiteLLM.
    if name == "handler":
        return make_handler()
    raise AttributeError(name)
