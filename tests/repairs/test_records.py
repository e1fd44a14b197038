"""Records that LiteLLM holds are known and flushed, and none is lost while others are sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiohttp import web
from httpx import HTTPStatusError, RemoteProtocolError

from litellm_resilience.records.flush import Flush
from litellm_resilience.repairs import batch_loggers, registry, spend, worker_end


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


async def until(condition: Callable[[], Any]) -> None:
    async def look() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), 30)


async def cancel_others() -> None:
    """End what a test has left running in LiteLLM."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.wait(others, timeout=30)


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


def few_at_a_time(receiver: Receiver) -> Any:
    """A logger as LiteLLM's for GCS is: its queue is no list, and it sends two at a time."""
    import httpx
    from litellm.integrations.custom_batch_logger import CustomBatchLogger

    class Few(CustomBatchLogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.log_queue: asyncio.Queue[int] = asyncio.Queue()
            self.audit_log_queue: list[int] = []  # Azure Sentinel has one, too

        async def flush_queue(self) -> None:
            taken = [self.log_queue.get_nowait() for _ in range(min(2, self.log_queue.qsize()))]
            taken += self.audit_log_queue
            self.audit_log_queue = []
            if taken:
                async with httpx.AsyncClient(trust_env=False) as client:
                    await client.post(receiver.url, json=taken)

    return add(Few())


async def test_a_logger_that_sends_a_few_at_a_time_sends_all(
    receiver: Receiver, flush: Flush
) -> None:
    logger = few_at_a_time(receiver)
    logger.audit_log_queue = [9]
    for number in range(5):
        logger.log_queue.put_nowait(number)
    assert flush.held()["Few"] == 6
    await flush.run(30)
    assert receiver.batches == [[0, 1, 9], [2, 3], [4]]
    assert flush.lost == {}


async def begin_by_itself(logger: Any, receiver: Receiver, flush: Flush) -> asyncio.Task[None]:
    """Have a logger's own timer send all of two records; the receiver does not answer."""
    assert flush.held()["Few"] == 0
    for number in range(2):
        logger.log_queue.put_nowait(number)
    receiver.answering.clear()
    by_itself = asyncio.create_task(logger.flush_queue())
    await asyncio.wait_for(receiver.came.wait(), 30)
    assert (logger.log_queue.qsize(), flush.held()["Few"]) == (0, 2)
    return by_itself


async def test_what_a_logger_is_sending_by_itself_is_waited_for(
    receiver: Receiver, flush: Flush
) -> None:
    by_itself = await begin_by_itself(few_at_a_time(receiver), receiver, flush)
    asyncio.get_running_loop().call_later(0.5, receiver.answering.set)
    await flush.run(30)
    assert by_itself.done()
    assert (flush.held()["Few"], flush.lost) == (0, {})


async def test_what_a_logger_is_sending_by_itself_to_nobody_is_told(
    receiver: Receiver, flush: Flush
) -> None:
    by_itself = await begin_by_itself(few_at_a_time(receiver), receiver, flush)
    await flush.run(0.5)
    assert flush.lost == {"Few": 2}
    receiver.answering.set()
    await by_itself


async def test_what_is_taken_by_a_flush_that_is_cut_off_is_told(
    receiver: Receiver, flush: Flush
) -> None:
    logger = few_at_a_time(receiver)
    logger.log_queue.put_nowait(1)
    receiver.answering.clear()
    await flush.run(0.5)
    assert flush.lost == {"Few": 1}
    receiver.answering.set()


async def test_a_batch_that_is_sent_because_it_is_full_takes_no_later_record_with_it(
    receiver: Receiver, flush: Flush
) -> None:
    """As LiteLLM's loggers for Datadog's LLM observability and for Pub/Sub send it."""
    import httpx
    from litellm.integrations.custom_batch_logger import CustomBatchLogger

    class Clears(CustomBatchLogger):  # type: ignore[misc]
        async def async_send_batch(self) -> None:
            if self.log_queue:
                async with httpx.AsyncClient(trust_env=False) as client:
                    await client.post(receiver.url, json=self.log_queue)
                self.log_queue.clear()

    logger = add(Clears(flush_lock=asyncio.Lock()))
    assert flush.held()["Clears"] == 0
    logger.log_queue.append(1)
    receiver.answering.clear()
    full = asyncio.create_task(logger.async_send_batch())
    await asyncio.wait_for(receiver.came.wait(), 30)
    logger.log_queue.append(2)
    assert flush.held()["Clears"] == 2
    receiver.answering.set()
    await full
    await flush.run(30)
    assert receiver.batches == [[1], [2]]
    assert flush.lost == {}


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


@pytest.fixture
async def small_queue(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """LiteLLM's queue of callbacks, with room for two."""
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER as QUEUE

    await QUEUE.stop()
    monkeypatch.setattr(QUEUE, "max_queue_size", 2)
    monkeypatch.setattr(QUEUE, "_queue", None)
    monkeypatch.setattr(QUEUE, "_sem", None, raising=False)
    yield QUEUE
    await QUEUE.stop()


async def test_callbacks_that_found_the_queue_full_are_counted_and_run_once(
    flush: Flush, small_queue: Any
) -> None:
    if not hasattr(small_queue, "_handle_queue_full"):
        pytest.skip("this LiteLLM drops them, and logs that")
    may_end, done = asyncio.Event(), []

    async def callback(number: int) -> None:
        await may_end.wait()
        done.append(number)

    for number in range(7):
        small_queue.ensure_initialized_and_enqueue(callback(number))
        assert flush.held()["callbacks"] == number + 1
    flush.work.started()  # this test is a task too
    ending = asyncio.create_task(flush.run(30))
    await until(small_queue._queue.empty)
    assert flush.held()["callbacks"] == 7
    may_end.set()
    await ending
    assert sorted(done) == list(range(7))
    assert (flush.held()["callbacks"], flush.lost) == (0, {})


async def test_callbacks_that_never_end_are_told_when_the_queue_was_full(
    flush: Flush, small_queue: Any
) -> None:
    if not hasattr(small_queue, "_handle_queue_full"):
        pytest.skip("this LiteLLM drops what finds it full")

    async def callback() -> None:
        await asyncio.Event().wait()

    for _ in range(7):
        small_queue.ensure_initialized_and_enqueue(callback())
    await asyncio.wait_for(flush.run(1.5), 30)
    assert flush.lost == {"callbacks": 7}
    await cancel_others()


async def test_a_callback_that_raises_or_is_cancelled_costs_no_other(
    flush: Flush, small_queue: Any
) -> None:
    from litellm.litellm_core_utils.thread_pool_executor import executor

    small_queue.max_queue_size = 20
    done = []

    async def raised(error: BaseException) -> None:
        await asyncio.sleep(0)
        raise error

    async def callback(number: int) -> None:
        await asyncio.sleep(0)
        done.append(number)

    def in_thread() -> None:
        raise RuntimeError("broken on purpose")

    for number in range(3):
        small_queue.ensure_initialized_and_enqueue(raised(asyncio.CancelledError()))
        small_queue.ensure_initialized_and_enqueue(raised(RuntimeError("broken on purpose")))
        small_queue.ensure_initialized_and_enqueue(callback(number))
        executor.submit(in_thread)
    await flush.run(30)
    assert sorted(done) == [0, 1, 2]
    assert (flush.held()["callbacks"], flush.lost) == (0, {})


async def test_what_watches_for_slow_replies_is_not_waited_for(flush: Flush) -> None:
    from litellm.integrations.SlackAlerting.slack_alerting import SlackAlerting

    alerting = SlackAlerting(alerting=["slack"], alerting_threshold=1)
    watch = asyncio.create_task(alerting.hanging_request_check.check_for_hanging_requests())
    note = asyncio.create_task(alerting.response_taking_too_long({"litellm_call_id": "1"}))
    await asyncio.wait_for(note, 30)
    assert flush.work.tasks() == ([], [])
    assert not watch.done()
    watch.cancel()


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


@pytest.mark.parametrize("wrap", [lambda provider: SimpleNamespace(provider=provider), lambda p: p])
async def test_spans_of_keys_with_credentials_of_their_own_are_flushed(
    wrap: Callable[[Provider], Any], flush: Flush
) -> None:
    """Newer LiteLLM wraps their providers."""
    provider = Provider(lambda: None)
    add(SimpleNamespace(_tracer_provider_cache={"key": wrap(provider)}))
    assert flush.held()["OpenTelemetry"] == 2
    await flush.run(30)
    assert provider.queue == []


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


async def test_a_provider_that_is_replaced_while_it_is_flushed_is_told(flush: Flush) -> None:
    may_end = threading.Event()
    callback = add(SimpleNamespace())

    def reconnect() -> None:
        callback.tracer_provider = Provider(lambda: None)
        may_end.wait()

    callback.tracer_provider = Provider(reconnect)
    await flush.run(0.5)
    assert flush.lost == {"OpenTelemetry": 4}
    may_end.set()


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


async def test_what_a_sidecar_that_hangs_does_not_take_is_left_to_the_worker(
    patched: SimpleNamespace, flush: Flush, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """More than the kernel takes for it; LiteLLM's own shutdown comes after and need not wait."""
    producers = pytest.importorskip("litellm.proxy.spend_tracking.spend_event_producer")
    monkeypatch.setattr(spend, "SIDECAR_SECONDS", 0.1)
    monkeypatch.setattr(patched.server, "prisma_client", None)
    path = str(tmp_path / "sidecar")
    records = {b"%d" % number + b"." * 8000 + b"\n" for number in range(200)}
    kept: list[bytes] = []

    async def keep(record: bytes) -> None:
        kept.append(record)

    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(path)
        listener.listen()
        producer = producers.SpendEventProducer(
            producers.UnixAddress(path), "fallback", len(records), 1.0, keep
        )
        monkeypatch.setattr(patched.server, "spend_event_producer", producer)
        for record in records:
            assert await producer.publish(record) == "queued"
        assert flush.held()["spend"] > 0
        await flush.run(20)
        await asyncio.wait_for(producer.close(1000), 20)
        connection, _ = listener.accept()
    with connection, connection.makefile("rb") as received:
        taken = {line for line in received if line.endswith(b"\n")}
    assert taken
    assert not taken & set(kept)
    assert taken | set(kept) == records
    assert len(kept) == len(set(kept))
    assert flush.lost == {}


def database_client(create_many: Callable[..., Awaitable[None]]) -> Any:
    """LiteLLM's client with the queues of its line, whose rows of spend go to `create_many`."""
    from litellm.proxy.utils import PrismaClient

    client: Any = object.__new__(PrismaClient)
    client.spend_log_transactions = []
    client.db = SimpleNamespace(litellm_spendlogs=SimpleNamespace(create_many=create_many))
    return client


async def write_spend(utils: Any, client: Any, logging: Any) -> None:
    """Write as LiteLLM's own task does."""
    given = {"prisma_client": client, "db_writer_client": None, "proxy_logging_obj": logging}
    if hasattr(utils, "update_spend_logs_job"):
        await utils.update_spend_logs_job(**given)
    else:
        await utils.ProxyUpdateSpend.update_spend_logs(n_retry_times=0, **given)


async def test_rows_of_spend_that_could_not_be_written_are_kept(
    patched: SimpleNamespace, flush: Flush, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the query engine is started anew."""
    from litellm.proxy import utils

    if hasattr(utils, "requeue_spend_logs"):
        pytest.skip("this LiteLLM keeps them itself")
    row, later = {"request_id": "1"}, {"request_id": "2"}
    writing = asyncio.Event()

    async def create_many(**_: Any) -> None:
        client.spend_log_transactions.append(later)
        writing.set()
        await asyncio.sleep(0.01)
        raise RemoteProtocolError("Server disconnected without sending a response.")

    client = database_client(create_many)
    client.spend_log_transactions.append(row)
    monkeypatch.setattr(patched.server, "prisma_client", client)
    writes = asyncio.create_task(write_spend(utils, client, patched.server.proxy_logging_obj))
    await asyncio.wait_for(writing.wait(), 30)
    assert flush.held()["spend"] == 2
    # Some lines look for prisma, which is not everywhere, to tell what kind of error it is.
    with pytest.raises((RemoteProtocolError, ModuleNotFoundError)):
        await writes
    assert client.spend_log_transactions == [row, later]
    assert flush.held()["spend"] == 2


async def test_rows_of_spend_that_litellms_own_task_is_writing_are_waited_for(
    patched: SimpleNamespace, flush: Flush, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has taken them out of the queue, so the flush finds none there."""
    from litellm.proxy import utils

    if hasattr(utils, "requeue_spend_logs"):
        pytest.skip("this LiteLLM keeps them itself")
    writing, may_end, written = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def create_many(**_: Any) -> None:
        writing.set()
        await may_end.wait()
        written.set()

    client = database_client(create_many)

    async def watch() -> None:
        while True:
            await write_spend(utils, client, patched.server.proxy_logging_obj)
            await asyncio.sleep(3600)

    monkeypatch.setattr(patched.server, "prisma_client", client)
    monkeypatch.setattr(
        patched.server.proxy_logging_obj.db_spend_update_writer,
        "db_update_spend_transaction_handler",
        AsyncMock(),
    )
    await flush.run(30)  # The first one imports modules.
    client.spend_log_transactions = [{"request_id": "1"}]
    watching = asyncio.create_task(watch())
    await asyncio.wait_for(writing.wait(), 30)
    asyncio.get_running_loop().call_later(1.0, may_end.set)
    await flush.run(30)
    assert written.is_set()
    watching.cancel()
    assert flush.lost == {}


async def test_what_litellm_writes_after_the_rows_of_spend_is_waited_for(
    patched: SimpleNamespace, flush: Flush, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litellm.proxy import utils

    if hasattr(utils, "requeue_spend_logs") or not hasattr(utils, "update_spend_logs_job"):
        pytest.skip("this LiteLLM has a lock for it, or writes nothing else")
    usage_tracking = pytest.importorskip("litellm.proxy.guardrails.usage_tracking")
    writing, may_end, written = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def track(**_: Any) -> None:
        writing.set()
        await may_end.wait()
        written.set()

    client = database_client(AsyncMock())
    monkeypatch.setattr(usage_tracking, "process_spend_logs_guardrail_usage", track)
    monkeypatch.setattr(patched.server, "prisma_client", client)
    monkeypatch.setattr(
        patched.server.proxy_logging_obj.db_spend_update_writer,
        "db_update_spend_transaction_handler",
        AsyncMock(),
    )
    await flush.run(30)
    client.spend_log_transactions = [{"request_id": "1"}]
    own = asyncio.create_task(write_spend(utils, client, patched.server.proxy_logging_obj))
    await asyncio.wait_for(writing.wait(), 30)
    flushing = asyncio.create_task(flush.run(30))
    asyncio.get_running_loop().call_later(0.5, may_end.set)
    await flushing
    assert written.is_set()
    await own


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
