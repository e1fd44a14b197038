"""Loggers that send in batches send what they hold before their worker ends, and lose nothing else.

No LiteLLM flushes them at its shutdown. Besides, the common `flush_queue` empties the queue after a
batch was sent, and with it what was logged meanwhile
(litellm/integrations/custom_batch_logger.py). So do some loggers by themselves: `generic_api`
before 1.109.0, `datadog_llm_observability`, `gcs_pubsub` and others.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import importlib
import inspect
import logging
from collections import Counter
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

from litellm_resilience.records.flush import Sink
from litellm_resilience.records.under_way import UnderWay
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
        if isinstance(logger, base):
            batches.prepare(context, type(logger), base)
            held = functools.partial(batches.held, logger)
            yield Sink(
                type(logger).__name__, held, functools.partial(_flush, logger, batches), logger
            )


def _queued(logger: Any) -> int:
    """Return how many records wait in a logger's queues; Azure Sentinel has one for audits too."""
    number = 0
    for name, queue in vars(logger).items():
        if name.endswith(QUEUE) and isinstance(queue, asyncio.Queue):  # GCS has such a one
            number += queue.qsize()
        elif name.endswith(QUEUE) and isinstance(queue, Sized):
            number += len(queue)
    return number


async def _flush(logger: Any, batches: _Batches) -> None:
    """Flush a logger, as often as that makes its queues shorter: some send one batch at a time.

    What the logger's own timer is sending is waited for.

    Raises:
        RuntimeError: it reports an error. As a rule it only logs that, and throws its batch away.
    """
    errors: list[str] = []
    token = _flushing.set(errors)
    try:
        while True:
            before = _queued(logger)
            await logger.flush_queue()
            await batches.sent(logger)
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
    """Batches that are being sent, apart from what comes meanwhile."""

    def __init__(self) -> None:
        self._in_transit: Counter[int] = Counter()
        """How many records are in no queue, being sent or cut off, by the identity of their logger.
        """
        self._under_way: UnderWay[tuple[int, int]] = UnderWay()
        """Flushes of loggers' own making: identity of the logger, records when it began."""
        self._prepared: set[type] = set()

    def held(self, logger: Any) -> int:
        """Return how many records a logger holds or is sending."""
        known = [_queued(logger) + self._in_transit[id(logger)]]
        known += [number for owner, number in self._under_way.all() if owner == id(logger)]
        return max(known)

    async def sent(self, logger: Any) -> None:
        """Wait for what a logger is sending by itself."""
        while await self._under_way.waited(lambda about: about[0] == id(logger)):
            pass

    def prepare(self, context: Context, kind: type, base: type) -> None:
        """Follow what a class of loggers does in its own way.

        Args:
            context: where to note what is replaced.
            kind: the class.
            base: the one that `locked` is for.
        """
        for owner in kind.__mro__[: kind.__mro__.index(base)]:
            if owner in self._prepared:
                continue
            self._prepared.add(owner)
            flush, send = (vars(owner).get(name) for name in ("flush_queue", "async_send_batch"))
            if inspect.isfunction(flush):
                context.changes.replace(owner, "flush_queue", self.followed(flush))
            if inspect.isfunction(send) and {QUEUE, "clear"} <= {*send.__code__.co_names}:
                context.changes.replace(owner, "async_send_batch", self.detached(send))

    def followed(self, flush: Any) -> Any:
        """Return a `flush_queue` that is known while it sends."""

        @functools.wraps(flush)
        async def flushed(logger: Any, *args: Any, **kwargs: Any) -> Any:
            before = _queued(logger)
            with self._under_way.attempt((id(logger), before)):
                try:
                    return await flush(logger, *args, **kwargs)
                except asyncio.CancelledError:
                    self._in_transit[id(logger)] += max(0, before - _queued(logger))
                    raise

        return flushed

    def detached(self, send: Any) -> Any:
        """Return a method that sends what is there when it is called, and nothing else."""

        @functools.wraps(send)
        async def sent(logger: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(getattr(logger, QUEUE), list):
                return await send(logger, *args, **kwargs)
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
        self._in_transit[id(logger)] += number
        try:
            yield sender
        finally:
            self._in_transit[id(logger)] -= number
            self._in_transit = +self._in_transit
            getattr(logger, QUEUE)[:0] = getattr(sender, QUEUE)
            for name, value in vars(sender).items():
                unknown = name not in before or before[name] is not value
                untouched = vars(logger).get(name) is before.get(name)
                if name not in (QUEUE, LOCK) and unknown and untouched:
                    setattr(logger, name, value)
