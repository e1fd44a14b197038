"""Records that LiteLLM holds are known and flushed, and none is lost while others are sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from httpx import HTTPStatusError

from litellm_resilience.records.flush import Flush
from litellm_resilience.repairs import batch_loggers, registry, worker_end


class Receiver:
    """A real server that logs are sent to; it answers once `answering` is set."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.status = 200
        self.came = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.url = ""

    async def take(self, request: web.BaseRequest) -> web.Response:
        self.batches.append(json.loads(await request.read()))
        self.came.set()
        await self.answering.wait()
        reply = web.Response(status=self.status)
        reply.force_close()  # or a task of this server's would wait for the next request
        return reply

    @property
    def records(self) -> list[Any]:
        return [record for batch in self.batches for record in batch]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    runner = web.ServerRunner(web.Server(found.take), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/logs"
    yield found
    found.answering.set()
    await runner.cleanup()


@pytest.fixture
def flush(patched: SimpleNamespace) -> Iterator[Flush]:
    """What the repairs flush, with the callbacks of these tests only."""
    import litellm

    assert registry._active is not None
    assert registry._active.flush is not None
    before = litellm.callbacks
    litellm.callbacks = []
    yield registry._active.flush
    litellm.callbacks = before


def add(callback: Any) -> Any:
    import litellm

    litellm.callbacks.append(callback)
    return callback


def generic(receiver: Receiver) -> Any:
    """LiteLLM's logger for any HTTP endpoint."""
    made = batch_loggers.generic_logger()
    if made is None:
        pytest.skip("this LiteLLM has none")
    return add(made(endpoint=receiver.url))


def batches(receiver: Receiver) -> Any:
    """A logger of the operator's, as LiteLLM's documentation has it."""
    import httpx
    from litellm.integrations.custom_batch_logger import CustomBatchLogger

    class Batches(CustomBatchLogger):  # type: ignore[misc]
        async def async_send_batch(self) -> None:
            async with httpx.AsyncClient(trust_env=False) as client:
                reply = await client.post(receiver.url, json=self.log_queue)
            reply.raise_for_status()

    return add(Batches(flush_lock=asyncio.Lock()))


@pytest.mark.parametrize("make", [generic, batches])
async def test_what_is_logged_during_a_batch_is_sent_with_the_next(
    make: Callable[[Receiver], Any], receiver: Receiver, flush: Flush
) -> None:
    logger = make(receiver)
    sink = type(logger).__name__
    logger.log_queue.append({"id": 1})
    receiver.answering.clear()
    first = asyncio.create_task(logger.flush_queue())
    await asyncio.wait_for(receiver.came.wait(), 30)
    logger.log_queue.append({"id": 2})
    assert flush.held()[sink] == 2
    receiver.answering.set()
    await first
    assert flush.held()[sink] == 1
    await flush.run(30)
    assert receiver.batches == [[{"id": 1}], [{"id": 2}]]
    assert (flush.held()[sink], flush.lost) == (0, {})


async def test_what_a_logger_keeps_after_an_error_stays_in_front(
    receiver: Receiver, flush: Flush
) -> None:
    logger = batches(receiver)
    receiver.status = 500
    logger.log_queue.append({"id": 1})
    with contextlib.suppress(HTTPStatusError):  # which newer LiteLLM logs instead
        await logger.flush_queue()
    logger.log_queue.append({"id": 2})
    assert logger.log_queue == [{"id": 1}, {"id": 2}]
    receiver.status = 200
    await flush.run(30)
    assert receiver.batches == [[{"id": 1}], [{"id": 1}, {"id": 2}]]


async def test_what_a_logger_throws_away_is_told(receiver: Receiver, flush: Flush) -> None:
    logger = generic(receiver)
    receiver.status = 400
    logger.log_queue += [{"id": 1}, {"id": 2}]
    await flush.run(30)
    assert flush.lost == {"GenericAPILogger": 2}


async def test_a_sink_that_does_not_answer_costs_the_timeout_and_is_told(
    receiver: Receiver, flush: Flush
) -> None:
    logger = generic(receiver)
    receiver.answering.clear()
    logger.log_queue += [{"id": 1}, {"id": 2}, {"id": 3}]
    await asyncio.wait_for(flush.run(0.5), 30)
    assert flush.lost == {"GenericAPILogger": 3}


async def test_callbacks_in_tasks_and_threads_are_counted_and_waited_for(flush: Flush) -> None:
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
    from litellm.litellm_core_utils.thread_pool_executor import executor

    may_end, done = threading.Event(), []

    async def callback() -> None:
        await asyncio.to_thread(may_end.wait)
        done.append("task")

    def in_thread() -> None:
        may_end.wait()
        done.append("thread")

    before = flush.held()["callbacks"]
    GLOBAL_LOGGING_WORKER.ensure_initialized_and_enqueue(callback())
    executor.submit(in_thread)
    assert flush.held()["callbacks"] == before + 2
    asyncio.get_running_loop().call_later(0.05, may_end.set)
    await flush.run(30)
    assert sorted(done) == ["task", "thread"]
    assert flush.lost == {}
    await GLOBAL_LOGGING_WORKER.stop()


class Provider:
    """A provider of OpenTelemetry's SDK, as far as it is asked."""

    def __init__(self, flush: Callable[[], object]) -> None:
        self.queue = [1, 2]
        self._active_span_processor = SimpleNamespace(_span_processors=[self])
        self.flush = flush

    def force_flush(self) -> None:
        self.flush()
        self.queue.clear()


async def test_spans_are_flushed_by_each_provider_of_a_callback(flush: Flush) -> None:
    provider = Provider(lambda: None)
    add(SimpleNamespace(tracer_provider=provider, same=provider))
    assert flush.held()["OpenTelemetry"] == 2
    await flush.run(30)
    assert (provider.queue, flush.lost) == ([], {})


async def test_a_collector_that_does_not_answer_keeps_no_thread_that_is_waited_for(
    flush: Flush,
) -> None:
    may_end = threading.Event()
    add(SimpleNamespace(tracer_provider=Provider(may_end.wait)))
    await flush.run(0.5)
    assert flush.lost == {"OpenTelemetry": 2}
    (blocked,) = [each for each in threading.enumerate() if each.name.endswith("resilience-flush")]
    assert blocked.daemon
    may_end.set()
    blocked.join(30)


async def test_spend_is_written_by_litellms_own_job(
    patched: SimpleNamespace, flush: Flush, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job writes to a database, which tests/production has."""
    rows = [{"request_id": "1"}]
    monkeypatch.setattr(
        patched.server, "prisma_client", SimpleNamespace(spend_log_transactions=rows)
    )
    assert flush.held()["spend"] == 1
    await flush.run(1)
    assert flush.lost == {"spend": 1}
    monkeypatch.setattr(patched.server, "prisma_client", None)
    assert flush.held()["spend"] == 0


@pytest.mark.parametrize(
    ("value", "seconds"), [("2.5", 2.5), ("0", 0.0), ("-1", 0.0), ("soon", 10.0), (None, 10.0)]
)
def test_the_timeout_is_read_from_the_environment(
    value: str | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(worker_end.TIMEOUT_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(worker_end.TIMEOUT_VARIABLE, value)
    assert worker_end.timeout() == seconds
