"""Loggers that send in batches send what they hold before their worker ends, and lose nothing else.

No LiteLLM flushes them at its shutdown. Besides, the common `flush_queue` empties the queue after a
batch was sent, and with it what was logged meanwhile
(litellm/integrations/custom_batch_logger.py); so does `generic_api` before 1.109.0.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import importlib
import logging
from collections import Counter
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

from litellm_resilience.records.flush import Sink
from litellm_resilience.repairs import callbacks
from litellm_resilience.repairs.base import Outcome, PatchState, require_async

if TYPE_CHECKING:
    from collections.abc import Iterator

    from litellm_resilience.repairs.base import Context

INTEGRATIONS = "litellm.integrations"
GENERIC = (
    f"{INTEGRATIONS}.generic_api.generic_api_callback",
    "litellm_enterprise.enterprise_callbacks.generic_api_callback",
)
"""The module moved after 1.79."""
QUEUE, LOCK = "log_queue", "flush_lock"

_flushing: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "litellm_resilience_flushing", default=None
)


def apply(context: Context) -> Outcome:
    """Keep what is logged while a batch is sent, and flush every batch logger at the end."""
    base = importlib.import_module(f"{INTEGRATIONS}.custom_batch_logger").CustomBatchLogger
    batches = _Batches()
    flush_queue = require_async(base, "flush_queue", "self")
    context.changes.replace(base, "flush_queue", batches.locked(flush_queue))
    generic = generic_logger()
    if generic is not None and not hasattr(generic, "_send_batch"):
        send = require_async(generic, "async_send_batch", "self")
        context.changes.replace(generic, "async_send_batch", batches.detached(send))
    _note_errors(context)
    context.flush.add(lambda: _sinks(context, base, batches))
    return Outcome(PatchState.APPLIED, "batch loggers keep what comes during a batch, and flush")


def generic_logger() -> Any:
    """Return the class behind `generic_api`, if it can be imported."""
    for module in GENERIC:
        with contextlib.suppress(ImportError):
            return importlib.import_module(module).GenericAPILogger
    return None


def _sinks(context: Context, base: type, batches: _Batches) -> Iterator[Sink]:
    for logger in callbacks.known(context):
        if not isinstance(logger, base):
            continue

        def held(logger: Any = logger) -> int:
            return _queued(logger) + batches.in_transit[id(logger)]

        yield Sink(type(logger).__name__, held, functools.partial(_flush, logger), logger)


def _queued(logger: Any) -> int:
    """Return how many records wait in a logger's queues; Azure Sentinel has one for audits too."""
    number = 0
    for name, queue in vars(logger).items():
        if name.endswith(QUEUE) and isinstance(queue, asyncio.Queue):  # GCS has such a one
            number += queue.qsize()
        elif name.endswith(QUEUE) and isinstance(queue, Sized):
            number += len(queue)
    return number


async def _flush(logger: Any) -> None:
    """Flush a logger, as often as that makes its queues shorter: some send one batch at a time.

    Raises:
        RuntimeError: it reports an error. As a rule it only logs that, and throws its batch away.
    """
    errors: list[str] = []
    token = _flushing.set(errors)
    try:
        while True:
            before = _queued(logger)
            await logger.flush_queue()
            if errors or not 0 < _queued(logger) < before:
                break
    finally:
        _flushing.reset(token)
    if errors:
        raise RuntimeError(errors[0])


def _note_errors(context: Context) -> None:
    """Hear the errors that are logged while a logger is flushed, by what it does."""
    heard = importlib.import_module("litellm._logging").verbose_logger

    def note(record: logging.LogRecord) -> bool:
        errors = _flushing.get()
        if errors is not None and record.levelno >= logging.ERROR:
            errors.append(record.getMessage())
        return True

    heard.addFilter(note)
    context.changes.done(lambda: heard.removeFilter(note))


class _Batches:
    """Batches that are being sent, apart from what comes meanwhile.

    Attributes:
        in_transit: how many records are being sent, by the identity of their logger.
    """

    def __init__(self) -> None:
        self.in_transit: Counter[int] = Counter()

    def detached(self, send: Any) -> Any:
        """Return a method that sends what is there when it is called, and nothing else."""

        @functools.wraps(send)
        async def sent(logger: Any, *args: Any, **kwargs: Any) -> Any:
            with self._batch(logger) as sender:
                return await send(sender, *args, **kwargs)

        return sent

    def locked(self, flush: Any) -> Any:
        """Return a `flush_queue` that does so while it holds the logger's lock."""

        @functools.wraps(flush)
        async def flushed(logger: Any, *args: Any, **kwargs: Any) -> Any:
            lock = getattr(logger, LOCK)
            queue = getattr(logger, QUEUE)
            if lock is None or not queue or not isinstance(queue, list):
                return await flush(logger, *args, **kwargs)
            async with lock:
                with self._batch(logger) as sender:
                    setattr(sender, LOCK, asyncio.Lock())
                    return await flush(sender, *args, **kwargs)

        return flushed

    @contextlib.contextmanager
    def _batch(self, logger: Any) -> Iterator[Any]:
        """Yield a copy of a logger that holds what is queued; what it keeps goes back to the front.

        What it learns meanwhile, such as a token, the logger learns too.
        """
        number = len(getattr(logger, QUEUE))
        sender = copy.copy(logger)
        before = dict(vars(logger))
        setattr(logger, QUEUE, [])
        self.in_transit[id(logger)] += number
        try:
            yield sender
        finally:
            self.in_transit[id(logger)] -= number
            getattr(logger, QUEUE)[:0] = getattr(sender, QUEUE)
            for name, value in vars(sender).items():
                unknown = name not in before or before[name] is not value
                untouched = vars(logger).get(name) is before.get(name)
                if name not in (QUEUE, LOCK) and unknown and untouched:
                    setattr(logger, name, value)
