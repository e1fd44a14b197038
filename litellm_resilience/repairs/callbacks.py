"""The callbacks of answered requests end before their worker does.

LiteLLM runs them in a queue of its own, in tasks and in threads, and cancels or forgets at its
shutdown what has not ended (litellm/litellm_core_utils/logging_worker.py).
"""

from __future__ import annotations

import importlib
import inspect
import threading
import weakref
from typing import TYPE_CHECKING, Any

from litellm_resilience.records.flush import Sink
from litellm_resilience.repairs.base import Outcome, PatchState, first_name, require

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litellm_resilience.repairs.base import Context

UTILITIES = "litellm.litellm_core_utils"
ALL_CALLBACKS = ("get_all_callbacks", "_get_all_callbacks")


def apply(context: Context) -> Outcome:
    """Count callbacks that wait or run, in tasks and threads; the flush waits for them."""
    queue = importlib.import_module(f"{UTILITIES}.logging_worker")
    require(queue, "GLOBAL_LOGGING_WORKER", "LoggingWorker")
    worker = queue.GLOBAL_LOGGING_WORKER
    require(worker, "enqueue", "start")
    logging = importlib.import_module(f"{UTILITIES}.litellm_logging")
    require(logging, "Logging", "CustomLogger")
    executor = importlib.import_module(f"{UTILITIES}.thread_pool_executor").executor
    require(executor, "submit")
    threads = _Threads(executor)
    context.changes.replace(executor, "submit", threads.submit)
    enqueued = _Enqueued(worker)
    context.changes.replace(worker, "enqueue", enqueued.enqueue)
    context.flush.work.set_apart(queue.LoggingWorker, logging.CustomLogger, logging.Logging)

    def sinks() -> tuple[Sink, ...]:
        enqueued.go_on()
        return (Sink("callbacks", lambda: enqueued.unfinished + threads.busy),)

    context.flush.add(sinks)
    return Outcome(PatchState.APPLIED, "a worker ends after the callbacks of its replies")


def known(context: Context) -> list[Any]:
    """Return once each callback that is configured, or that LiteLLM has made of its name."""
    manager = importlib.import_module("litellm").logging_callback_manager
    return distinct(
        [
            *getattr(manager, first_name(manager, *ALL_CALLBACKS))(),
            *importlib.import_module(f"{UTILITIES}.litellm_logging")._in_memory_loggers,
            getattr(context.proxy_server.proxy_logging_obj, "slack_alerting_instance", None),
        ]
    )


def distinct(objects: Iterable[Any]) -> list[Any]:
    """Return each object once, whether or not it can be compared."""
    return list({id(each): each for each in objects}.values())


class _Enqueued:
    """Counts the callbacks that wait or run.

    The queue's own count is wrong once it was full: LiteLLM keeps callbacks outside of it, and
    marks some as done that it has never put there.

    Args:
        worker: LiteLLM's logging worker, whose `enqueue` is to be replaced by this one's.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._enqueue = worker.enqueue
        self._coroutines: weakref.WeakSet[Any] = weakref.WeakSet()

    def enqueue(self, coroutine: Any, *args: Any, **kwargs: Any) -> Any:
        """Enqueue, and count until it is done or forgotten."""
        if inspect.iscoroutine(coroutine):
            self._coroutines.add(coroutine)
        return self._enqueue(coroutine, *args, **kwargs)

    def go_on(self) -> None:
        """Start LiteLLM's task again if it has ended too early.

        Before 1.81 it does so at callbacks that are cancelled, until the next reply.
        """
        task = getattr(self._worker, "_worker_task", None)
        if task is not None and task.done() and self.unfinished:
            self._worker.start()

    @property
    def unfinished(self) -> int:
        """How many are neither done nor forgotten."""
        closed = inspect.CORO_CLOSED
        return sum(inspect.getcoroutinestate(each) != closed for each in self._coroutines)


class _Threads:
    """Counts what an executor has to do.

    Args:
        executor: whose `submit` is to be replaced by this one's.
    """

    def __init__(self, executor: Any) -> None:
        self._submit = executor.submit
        self._lock = threading.Lock()
        self.busy = 0

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Submit, and count until it is done."""
        with self._lock:
            self.busy += 1
        try:
            future = self._submit(function, *args, **kwargs)
        except BaseException:
            self._done()
            raise
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Any = None) -> None:
        with self._lock:
            self.busy -= 1
