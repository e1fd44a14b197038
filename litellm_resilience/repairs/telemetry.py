"""OpenTelemetry's providers send what they hold before their worker ends.

They do so by an exit hook too, when LiteLLM has shut down and less time is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import threading
from typing import TYPE_CHECKING, Any

from litellm_resilience.records.flush import Sink
from litellm_resilience.repairs import callbacks
from litellm_resilience.repairs.base import Outcome, PatchState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from litellm_resilience.repairs.base import Context

GLOBALS = (
    ("opentelemetry.trace", "get_tracer_provider"),
    ("opentelemetry.metrics", "get_meter_provider"),
    ("opentelemetry._logs", "get_logger_provider"),
)

BY_CREDENTIALS = "_tracer_provider_cache"
"""Where LiteLLM's callback keeps the providers of keys and teams with credentials of their own."""


def apply(context: Context) -> Outcome:
    """Flush the providers that are there at the end."""

    def sinks() -> Iterator[Sink]:
        for provider in providers(context):
            yield Sink(
                "OpenTelemetry",
                functools.partial(held, provider),
                functools.partial(_in_thread, provider.force_flush),
                provider,
            )

    context.flush.add(sinks)
    return Outcome(PatchState.APPLIED, "OpenTelemetry is flushed before LiteLLM shuts down")


def providers(context: Context) -> list[Any]:
    """Return the global providers, and those that callbacks have for themselves."""
    found = [getattr(sys.modules[name], get)() for name, get in GLOBALS if name in sys.modules]
    for callback in callbacks.known(context):
        own = getattr(callback, "__dict__", {})
        found += own.values()
        cached = list(own.get(BY_CREDENTIALS, {}).values())
        found += [getattr(each, "provider", each) for each in cached]
    return callbacks.distinct(
        each for each in found if callable(getattr(type(each), "force_flush", None))
    )


async def _in_thread(task: Callable[[], object]) -> None:
    """Do something that blocks, in a thread that nobody waits for when it takes too long.

    The event loop would wait for one of `asyncio.to_thread` when it is closed.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            task()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by then
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="litellm-resilience-flush", daemon=True).start()
    await done.wait()


def held(provider: Any) -> int:
    """Return how many spans or log records a provider of the SDK holds."""
    several = _first(provider, "_active_span_processor", "_multi_log_record_processor")
    processors = _first(several, "_span_processors", "_log_record_processors") or ()
    batches = (getattr(processor, "_batch_processor", processor) for processor in processors)
    return sum(len(_first(batch, "_queue", "queue") or ()) for batch in batches)


def _first(owner: Any, *names: str) -> Any:
    """Return the first of these attributes that there is; their names differ by version."""
    return next((getattr(owner, name) for name in names if hasattr(owner, name)), None)
