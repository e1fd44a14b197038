"""Rows of spend that could not be written: which are kept, and how many."""

from __future__ import annotations

import asyncio
import logging
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest

from litellm_resilience.repairs.spend_rows import MAX_KEPT, WrittenRows, is_outage


class PrismaError(Exception):
    """Prisma's errors, as `prisma.errors` of 0.11 and 0.15 has them."""


class DataError(PrismaError):
    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@pytest.fixture(autouse=True)
def prisma(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: Any = ModuleType("prisma.errors")
    errors.PrismaError, errors.DataError = PrismaError, DataError
    monkeypatch.setitem(__import__("sys").modules, "prisma.errors", errors)


def raised_by_engine() -> Exception:
    """What Prisma's client raises when its engine's answer is half of one."""
    namespace = {"__name__": "prisma.engine.utils"}
    exec("def respond(error):\n    return error.get('meta')", namespace)
    respond: Any = namespace["respond"]
    try:
        respond(None)
    except AttributeError as error:
        return error
    raise AssertionError


def wrapped(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except type(inner):
            raise ImportError  # noqa: B904
    except ImportError as error:
        return error


REFUSED = 'ConnectorError(QueryError(PostgresError { code: "22021", message: "invalid byte" }))'


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectError("All connection attempts failed"), True),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), True),
        (asyncio.CancelledError(), True),
        (ConnectionResetError(), True),
        (PrismaError("Client is not connected to the query engine"), True),
        (DataError("Can't reach database server at `localhost`", "P1001"), True),
        (DataError("Timed out fetching a new connection from the pool", "P2024"), True),
        (DataError("Error { kind: Closed, cause: None }"), True),
        (DataError('PostgresError { code: "57P01", message: "terminating connection" }'), True),
        (raised_by_engine(), True),
        (wrapped(httpx.ReadError("")), True),
        (DataError("Unique constraint failed", "P2002"), False),
        (DataError("The table does not exist", "P2021"), False),
        (DataError(REFUSED), False),
        (wrapped(DataError(REFUSED)), False),
        (TypeError("not JSON serializable"), False),
        (None, False),
    ],
)
def test_an_outage_is_told_from_rows_that_are_refused(error: Any, expected: bool) -> None:
    assert is_outage(error) is expected


def rows(number: int) -> list[dict[str, int]]:
    return [{"request_id": each} for each in range(number)]


async def failed(written: WrittenRows, client: Any, error: BaseException, **given: Any) -> None:
    """Write what the queue holds, or what is given, and fail."""

    async def update(prisma_client: Any, logs_to_process: Any = None) -> None:
        if logs_to_process is None:
            prisma_client.queue = []
        raise error

    with pytest.raises(type(error)):
        await written.kept(update)(prisma_client=client, **given)


async def test_rows_are_put_back_before_what_has_come_meanwhile() -> None:
    written = WrittenRows("queue", None, logging.getLogger())
    old, new = rows(3), rows(2)
    client = SimpleNamespace(queue=[*new])
    await failed(written, client, httpx.ReadError(""), logs_to_process=old)
    assert client.queue == [*old, *new]
    assert written.number(client) == 0
    await failed(written, client, httpx.ReadError(""))
    assert client.queue == [*old, *new]


async def test_rows_that_are_refused_are_not_put_back() -> None:
    client = SimpleNamespace(queue=rows(3))
    await failed(WrittenRows("queue", None, logging.getLogger()), client, DataError(REFUSED))
    assert client.queue == []


async def test_what_is_queued_is_never_cut(caplog: pytest.LogCaptureFixture) -> None:
    written = WrittenRows("queue", None, logging.getLogger())
    queued = rows(MAX_KEPT - 1)
    client = SimpleNamespace(queue=[*queued])
    await failed(written, client, httpx.ReadError(""), logs_to_process=rows(4))
    assert client.queue[1:] == queued
    assert len(client.queue) == MAX_KEPT
    assert "3 rows of spend are lost" in caplog.text
    client.queue = rows(2 * MAX_KEPT)
    await failed(written, client, httpx.ReadError(""), logs_to_process=rows(4))
    assert len(client.queue) == 2 * MAX_KEPT


@pytest.mark.parametrize(
    ("error", "back"), [(httpx.RemoteProtocolError(""), 3), (asyncio.CancelledError(), 0)]
)
async def test_litellms_own_way_back_is_taken_where_there_is_one(
    error: BaseException, back: int
) -> None:
    """It puts back what was cancelled by itself."""
    put: list[Any] = []

    async def enqueue(client: Any, rows: Any, *, at_head: bool) -> None:
        assert at_head
        put.extend(rows)
        client.queue[:0] = rows

    written = WrittenRows("queue", enqueue, logging.getLogger())
    client = SimpleNamespace(queue=[])
    given = rows(3)
    await failed(written, client, error, logs_to_process=given)
    assert len(put) == len(client.queue) == back
    client.queue = [*given]
    await failed(written, client, error, logs_to_process=given)
    assert client.queue == given, "what is there again is not doubled"
