"""A keep-alive HTTP/1.1 client without retries, and a bounded load made with it.

Written on asyncio streams, because HTTP libraries retry, or hide which requests reused a
connection.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Mapping,
        Sequence,
    )

    from typing_extensions import Self

T = TypeVar("T")

FailureKind = Literal[
    "connect_refused",
    "reset",
    "closed_before_reply",
    "truncated",
    "timeout",
    "malformed",
    "http_5xx",
    "http_4xx",
]
"""How a request failed.

- ``connect_refused``: no connection could be opened.
- ``reset``: the connection was reset, or writing to it failed.
- ``closed_before_reply``: the connection was closed before the first byte of the reply.
- ``truncated``: the reply broke off; in `run_load` also a stream that ended without ``[DONE]``.
- ``timeout``: no reply in time.
- ``malformed``: the reply is not HTTP/1.1.
- ``http_5xx``, ``http_4xx``: a complete reply with such a status.
"""

CONNECT_BACKOFF = 0.05
"""Seconds `run_load` waits after a failed connect, so that a dead server is not hammered."""


_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class RequestError(Exception):
    """A request got no complete reply, or a stream was answered with an HTTP error.

    Attributes:
        kind: how it failed.
        reused_connection: whether it went over a connection that had served a request before.
        status: HTTP status, if known.
        body: body of an HTTP error reply.
    """

    def __init__(
        self,
        kind: FailureKind,
        detail: str = "",
        *,
        reused_connection: bool = False,
        status: int | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind: FailureKind = kind
        self.reused_connection = reused_connection
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Reply:
    """A complete HTTP reply.

    Attributes:
        status: HTTP status.
        body: the decoded body.
        latency: seconds from the start of the request (connecting included) to its last byte.
        reused_connection: whether the connection had served a request before.
        headers: header fields, names in lower case.
    """

    status: int
    body: bytes
    latency: float
    reused_connection: bool
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def failure(self) -> FailureKind | None:
        """``http_4xx`` or ``http_5xx`` for such a status, else None."""
        return _http_failure(self.status)

    def json(self) -> Any:
        """The body, parsed.

        Raises:
            ValueError: it is not JSON.
        """
        return json.loads(self.body)


@dataclass(frozen=True)
class _Head:
    status: int
    headers: Mapping[str, str]
    keep_alive: bool


class KeepAliveClient:
    """One client with at most one connection, which it keeps for as long as HTTP lets it.

    It never sends a request twice. After ``Connection: close``, a failure, or a stream that was
    not read to its end, the next request opens a new connection. Use it for one request at a time.

    Args:
        host: address of the server.
        port: its TCP port.
        headers: header fields sent with every request.
        timeout: seconds for connecting plus the whole reply; for streams, for connecting plus the
            reply's head, and again for each further event.
        notice_idle_close: do not send on an idle connection that the server has visibly closed,
            as HTTP libraries do; such closes are counted in `idle_closes`. With False, sending
            on it is a failure.

    Attributes:
        connections_opened: connections opened so far.
        idle_closes: connections found closed by the server between two requests.
        reused_connection: whether the latest request went over a connection used before.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        notice_idle_close: bool = True,
    ) -> None:
        self._host = host
        self._port = port
        self._headers = dict(headers or {})
        self._timeout = timeout
        self._notice_idle_close = notice_idle_close
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._busy = False
        self.reused_connection = False
        self.connections_opened = 0
        self.idle_closes = 0

    async def request(
        self,
        method: str,
        path: str,
        json_body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request and read its whole reply, whatever the status.

        Args:
            method: HTTP method.
            path: path with query.
            json_body: sent as JSON unless None.
            headers: further header fields.

        Raises:
            RequestError: no complete reply.
        """
        started = time.monotonic()
        head, body = await self._guard(
            self._exchange(method, path, json_body, headers), self._timeout
        )
        self._finish(head)
        return Reply(
            head.status,
            body,
            time.monotonic() - started,
            self.reused_connection,
            dict(head.headers),
        )

    async def stream(
        self,
        path: str,
        json_body: Any,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """POST a request and yield the data of each server-sent event, ``b"[DONE]"`` included.

        Leaving the iterator early closes the connection; use ``contextlib.aclosing`` to have that
        happen at once, or call `hang_up`.

        Raises:
            RequestError: no complete reply, or a status of 400 and above.
        """
        head = await self._guard(self._open("POST", path, json_body, headers), self._timeout)
        complete = False
        try:
            failure = _http_failure(head.status)
            if failure is not None:
                body = await self._guard(self._read_body("POST", head), self._timeout)
                complete = True
                raise RequestError(
                    failure,
                    body[:200].decode(errors="replace"),
                    reused_connection=self.reused_connection,
                    status=head.status,
                    body=body,
                )
            pending = b""
            parts = self._body_parts("POST", head)
            while True:
                part = await self._guard(_next_part(parts), self._timeout, head.status)
                if part is None:
                    break
                pending = (pending + part).replace(b"\r\n", b"\n")
                *events, pending = pending.split(b"\n\n")
                for event in events:
                    data = _event_data(event)
                    if data is not None:
                        yield data
            complete = True
            data = _event_data(pending)
            if data is not None:
                yield data
        finally:
            if complete:
                self._finish(head)
            else:
                self.hang_up()

    def hang_up(self) -> None:
        """Abort the TCP connection now, in the middle of a reply or not."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._forget()

    async def close(self) -> None:
        """Close the connection in an orderly way."""
        writer = self._writer
        self._forget()
        if writer is not None:
            writer.close()
            try:
                await asyncio.wait_for(writer.wait_closed(), 1.0)
            except (OSError, asyncio.TimeoutError):
                writer.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _forget(self) -> None:
        self._reader = self._writer = None
        self._busy = False

    def _finish(self, head: _Head) -> None:
        self._busy = False
        if not head.keep_alive and self._writer is not None:
            self._writer.close()
            self._forget()

    async def _guard(self, step: Awaitable[T], timeout: float, status: int | None = None) -> T:
        try:
            return await asyncio.wait_for(step, timeout)
        except asyncio.TimeoutError:
            failure = RequestError("timeout", f"after {timeout:g} s", status=status)
        except RequestError as error:
            failure = error
        except asyncio.IncompleteReadError:
            failure = RequestError("truncated", "the reply broke off", status=status)
        except OSError as error:
            failure = RequestError("reset", str(error), status=status)
        except ValueError as error:
            failure = RequestError("malformed", str(error), status=status)
        except BaseException:
            self.hang_up()
            raise
        failure.reused_connection = self.reused_connection
        self.hang_up()
        raise failure

    async def _exchange(
        self, method: str, path: str, json_body: Any, headers: Mapping[str, str] | None
    ) -> tuple[_Head, bytes]:
        head = await self._open(method, path, json_body, headers)
        return head, await self._read_body(method, head)

    async def _open(
        self, method: str, path: str, json_body: Any, headers: Mapping[str, str] | None
    ) -> _Head:
        reader, writer = await self._connection()
        writer.write(self._encode(method, path, json_body, headers))
        await writer.drain()
        try:
            first = await reader.readexactly(1)
        except asyncio.IncompleteReadError as error:
            raise RequestError("closed_before_reply") from error
        head = _parse_head(first + await _read_head(reader))
        while head.status < HTTPStatus.OK:
            head = _parse_head(await _read_head(reader))
        return head

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._busy:
            self.hang_up()
        if self._notice_idle_close and self._closed_by_server():
            self.idle_closes += 1
            self.hang_up()
        self.reused_connection = self._reader is not None
        if self._reader is None or self._writer is None:
            try:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            except OSError as error:
                raise RequestError("connect_refused", str(error)) from error
            self.connections_opened += 1
        self._busy = True
        return self._reader, self._writer

    def _closed_by_server(self) -> bool:
        reader = self._reader
        return reader is not None and (reader.at_eof() or reader.exception() is not None)

    def _encode(
        self, method: str, path: str, json_body: Any, headers: Mapping[str, str] | None
    ) -> bytes:
        body = b"" if json_body is None else json.dumps(json_body).encode()
        lines = {"Host": f"{self._host}:{self._port}", "Accept": "*/*"}
        if json_body is not None:
            lines["Content-Type"] = "application/json"
        if json_body is not None or method not in {"GET", "HEAD"}:
            lines["Content-Length"] = str(len(body))
        lines.update(self._headers)
        lines.update(headers or {})
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body

    async def _read_body(self, method: str, head: _Head) -> bytes:
        return b"".join([part async for part in self._body_parts(method, head)])

    async def _body_parts(self, method: str, head: _Head) -> AsyncIterator[bytes]:
        reader = self._reader
        if reader is None or method == "HEAD" or head.status in _BODILESS:
            return
        if head.headers.get("transfer-encoding", "").lower().endswith("chunked"):
            while True:
                size = int((await _read_line(reader)).split(b";")[0], 16)
                if size == 0:
                    break
                yield await reader.readexactly(size)
                await reader.readexactly(2)
            while await _read_line(reader):
                pass
        elif "content-length" in head.headers:
            length = int(head.headers["content-length"])
            if length:
                yield await reader.readexactly(length)
        else:
            while part := await reader.read(65536):
                yield part


async def _next_part(parts: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await parts.__anext__()
    except StopAsyncIteration:
        return None


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.readuntil(b"\r\n"))[:-2]
    except asyncio.LimitOverrunError as error:
        raise ValueError("a line of the reply is too long") from error


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise ValueError("the head of the reply is too long") from error


def _parse_head(data: bytes) -> _Head:
    status_line, *lines = data.decode("latin-1").rstrip("\r\n").split("\r\n")
    version, _, rest = status_line.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not an HTTP/1 reply: {status_line[:80]!r}")
    status = int(rest.split(" ")[0])
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"not a header field: {line[:80]!r}")
        headers[name.lower()] = value.strip()
    options = {option.strip() for option in headers.get("connection", "").lower().split(",")}
    framed = "content-length" in headers or "transfer-encoding" in headers
    keep_alive = (
        "close" not in options
        and (version != "HTTP/1.0" or "keep-alive" in options)
        and (framed or status in _BODILESS)
    )
    return _Head(status, headers, keep_alive)


def _event_data(event: bytes) -> bytes | None:
    data = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(data) if data else None


def _http_failure(status: int) -> FailureKind | None:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "http_5xx"
    return "http_4xx" if status >= HTTPStatus.BAD_REQUEST else None


@dataclass(frozen=True)
class RequestRecord:
    """What became of one request of a load.

    Attributes:
        timestamp: seconds from the start of the load to the end of the request.
        ok: whether it succeeded.
        latency: seconds it took.
        failure: how it failed, or None.
        status: HTTP status, if known.
        reused_connection: whether it went over a connection that had served a request before.
        done: for a stream, whether it ended with ``[DONE]``; else None.
        detail: the failure in words.
    """

    timestamp: float
    ok: bool
    latency: float
    failure: FailureKind | None
    status: int | None
    reused_connection: bool
    done: bool | None
    detail: str = ""


@dataclass
class LoadReport:
    """The outcome of a load.

    Attributes:
        records: one entry per finished request, in order of finishing.
        duration: seconds from the first request to the end of the last.
        sending: seconds during which new requests were started.
        connections_opened: connections the clients opened.
        idle_closes: connections the server closed between two requests.
        events: seconds from the start of the load to each event of a stream, in order of arrival.
    """

    records: list[RequestRecord] = field(default_factory=list)
    duration: float = 0.0
    sending: float = 0.0
    connections_opened: int = 0
    idle_closes: int = 0
    events: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Number of requests, failed ones included."""
        return len(self.records)

    @property
    def successes(self) -> int:
        """Number of requests that succeeded."""
        return sum(record.ok for record in self.records)

    @property
    def failures(self) -> dict[str, int]:
        """Number of failed requests by kind; empty when none failed."""
        return dict(Counter(r.failure for r in self.records if r.failure is not None))

    @property
    def streams_done(self) -> int:
        """Number of streams that ended with ``[DONE]``."""
        return sum(record.done is True for record in self.records)

    @property
    def throughput(self) -> float:
        """Successful requests per second."""
        return self.successes / self.duration if self.duration > 0 else 0.0

    def silent_seconds(self, bucket: float = 1.0) -> int:
        """Number of whole buckets in which nothing came, while requests were started.

        What may come is the end of a successful request, or an event of any stream.

        Args:
            bucket: length of a bucket in seconds.

        Raises:
            ValueError: `bucket` is not positive.
        """
        if bucket <= 0:
            raise ValueError(f"bucket must be positive, not {bucket!r}")
        replies = [record.timestamp for record in self.records if record.ok]
        served = {int(moment / bucket) for moment in (*replies, *self.events)}
        return sum(number not in served for number in range(int(self.sending / bucket)))

    def percentile(self, percent: float) -> float:
        """Latency in seconds that this share of the successful requests did not exceed.

        Args:
            percent: 0 to 100. The result is NaN when no request succeeded.

        Raises:
            ValueError: `percent` is out of range.
        """
        share = percent / 100
        if not 0 <= share <= 1:
            raise ValueError(f"percent must be from 0 to 100, not {percent!r}")
        latencies = sorted(record.latency for record in self.records if record.ok)
        if not latencies:
            return math.nan
        return latencies[max(0, math.ceil(share * len(latencies)) - 1)]

    def percentiles(self, percents: Sequence[float] = (50, 95, 99, 100)) -> dict[str, float]:
        """Several percentiles in seconds, by name (``p50`` …)."""
        return {f"p{percent:g}": self.percentile(percent) for percent in percents}


async def run_load(
    host: str,
    port: int,
    *,
    clients: int,
    seconds: float,
    max_requests: int | None = None,
    think_time: float | Callable[[], float] = 0.0,
    body: Mapping[str, Any] | Callable[[int], Mapping[str, Any]],
    headers: Mapping[str, str] | None = None,
    stream: bool = False,
    path: str = "/v1/chat/completions",
    timeout: float = 30.0,
    notice_idle_close: bool = True,
    on_result: Callable[[RequestRecord], None] | None = None,
    stop: asyncio.Event | None = None,
) -> LoadReport:
    """POST requests from several keep-alive clients, each with one connection and no retries.

    No request starts after `seconds`, after `max_requests` requests, or once `stop` is set; those
    under way are waited for, each for at most `timeout`.

    Args:
        host: address of the server.
        port: its TCP port.
        clients: number of clients.
        seconds: length of the load.
        max_requests: upper limit over all clients.
        think_time: seconds a client waits after each reply, or a function that returns them, so
            that clients do not go in step.
        body: JSON body, or a function from the number of the request (from 0) to its body. With
            `stream`, ``"stream": true`` is added.
        headers: header fields sent with every request.
        stream: read the replies as streams, which succeed if they end with ``[DONE]``.
        path: path of the endpoint.
        timeout: see `KeepAliveClient`, seconds.
        notice_idle_close: see `KeepAliveClient`.
        on_result: called after each request, in the event loop.
        stop: ends the load early.

    Raises:
        ValueError: `clients` or `seconds` is not positive.
    """
    if clients < 1 or seconds <= 0:
        raise ValueError("clients and seconds must be positive")
    load = _Load(seconds, max_requests, body, stream, stop if stop is not None else asyncio.Event())

    async def one_client() -> None:
        client = KeepAliveClient(
            host, port, headers=headers, timeout=timeout, notice_idle_close=notice_idle_close
        )
        async with client:
            while (chosen := load.next_body()) is not None:
                record = await _attempt(client, path, chosen, stream, load)
                load.report.records.append(record)
                if on_result is not None:
                    on_result(record)
                backoff = CONNECT_BACKOFF if record.failure == "connect_refused" else 0.0
                thinking = think_time() if callable(think_time) else think_time
                await load.pause(max(backoff, thinking))
        load.report.connections_opened += client.connections_opened
        load.report.idle_closes += client.idle_closes

    tasks = [asyncio.create_task(one_client()) for _ in range(clients)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    load.report.duration = time.monotonic() - load.started
    return load.report


class _Load:
    """What the clients of one `run_load` share."""

    def __init__(
        self,
        seconds: float,
        max_requests: int | None,
        body: Mapping[str, Any] | Callable[[int], Mapping[str, Any]],
        stream: bool,
        stop: asyncio.Event,
    ) -> None:
        self.report = LoadReport()
        self.started = time.monotonic()
        self._end = self.started + seconds
        self._max_requests = max_requests
        self._body = body
        self._stream = stream
        self._stop = stop
        self._issued = 0

    def next_body(self) -> Mapping[str, Any] | None:
        """The body of the next request, or None when the load is over."""
        now = time.monotonic()
        limit = self._max_requests
        if self._stop.is_set() or now >= self._end or (limit is not None and self._issued >= limit):
            self.report.sending = self.report.sending or now - self.started
            return None
        body = self._body(self._issued) if callable(self._body) else self._body
        self._issued += 1
        return {**body, "stream": True} if self._stream else body

    async def pause(self, duration: float) -> None:
        """Wait, but not beyond the end of the load."""
        left = min(duration, self._end - time.monotonic())
        if left > 0:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), left)


async def _attempt(
    client: KeepAliveClient, path: str, body: Mapping[str, Any], stream: bool, load: _Load
) -> RequestRecord:
    begun = time.monotonic()
    failure: FailureKind | None = None
    status: int | None = 200
    detail = ""
    done = False
    try:
        if stream:
            last = b""
            async with aclosing(client.stream(path, body)) as events:
                async for last in events:
                    load.report.events.append(time.monotonic() - load.started)
                    done = last == b"[DONE]"
            if not done:
                failure, detail = "truncated", f"last event: {last[:200]!r}"
        else:
            reply = await client.request("POST", path, body)
            failure, status = reply.failure, reply.status
            if failure is not None:
                detail = reply.body[:200].decode(errors="replace")
    except RequestError as error:
        failure, status, detail = error.kind, error.status, str(error)
    ended = time.monotonic()
    return RequestRecord(
        timestamp=ended - load.started,
        ok=failure is None,
        latency=ended - begun,
        failure=failure,
        status=status,
        reused_connection=client.reused_connection,
        done=done if stream else None,
        detail=detail,
    )
