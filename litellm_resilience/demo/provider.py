"""A fake OpenAI-compatible provider on a real TCP port, which counts its connections.

Run it in an event loop (`FakeProvider`) or in a thread (`ProviderThread`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from aiohttp import web

from litellm_resilience.demo.lifetime import Started

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self


@dataclass
class ProviderSettings:
    """Behaviour of the provider; every field may be changed while it runs.

    Attributes:
        delay: seconds before a JSON reply, and before the first chunk of a stream.
        chunks: number of content chunks in a stream.
        chunk_interval: seconds between two chunks of a stream.
    """

    delay: float = 0.0
    chunks: int = 5
    chunk_interval: float = 0.02

    def change(self, values: Mapping[str, Any]) -> None:
        """Set the named fields.

        Raises:
            ValueError: a name is unknown, or a value is not a number of at least 0.
        """
        known = {field.name for field in fields(self)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"unknown setting {name!r}; known: {', '.join(sorted(known))}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
        for name, value in values.items():
            setattr(self, name, int(value) if name == "chunks" else float(value))


@dataclass(frozen=True)
class ProviderStats:
    """Counters of a provider at one moment.

    Attributes:
        connections_opened: TCP connections accepted so far.
        connections_open: TCP connections open now.
        requests: requests received so far.
        streams_open: streams under way now.
        streams_completed: streams whose last byte was handed to the connection.
        streams_aborted: streams whose client went away before the end.
    """

    connections_opened: int = 0
    connections_open: int = 0
    requests: int = 0
    generations: int = 0
    streams_open: int = 0
    streams_completed: int = 0
    streams_aborted: int = 0


class _CountingServer(web.Server):
    def __init__(self, provider: FakeProvider, keepalive_timeout: float) -> None:
        super().__init__(
            provider.handle,
            handler_cancellation=True,
            keepalive_timeout=keepalive_timeout,
            access_log=None,
        )
        self._provider = provider

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._provider.connections_opened += 1
        self._provider.connections_open += 1

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._provider.connections_open -= 1


class FakeProvider:
    """The provider, served by the running event loop; an async context manager.

    Serves ``POST /v1/chat/completions`` (JSON, or SSE with ``"stream": true``),
    ``POST /v1/embeddings`` and ``GET /v1/models``, each also without ``/v1``; and, with it or
    without, ``POST /records``, which keeps the ids that it is told.

    The counters (see `ProviderStats`) and `settings` are plain attributes. Only the event loop
    writes the counters, so any thread may read them.

    Args:
        delay: see `ProviderSettings`, seconds.
        chunks: see `ProviderSettings`.
        chunk_interval: see `ProviderSettings`, seconds.
        port: TCP port on 127.0.0.1; 0 picks a free one.
        keepalive_timeout: seconds an idle connection is kept open.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        *,
        delay: float = 0.0,
        chunks: int = 5,
        chunk_interval: float = 0.02,
        port: int = 0,
        keepalive_timeout: float = 300.0,
    ) -> None:
        self.settings = ProviderSettings()
        self.settings.change({"delay": delay, "chunks": chunks, "chunk_interval": chunk_interval})
        self.connections_opened = 0
        self.connections_open = 0
        self.requests = 0
        self.generations = 0
        self.streams_open = 0
        self.streams_completed = 0
        self.streams_aborted = 0
        self.asked: dict[str, str] = {}
        """The last message of each request for JSON, by the id of its reply."""
        self.records: Counter[str] = Counter()
        """How often each id was told."""
        self._wanted_port = port
        self._keepalive_timeout = keepalive_timeout
        self._protocols: _CountingServer | None = None
        self._listener: asyncio.Server | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The TCP port; 0 before `start`."""
        return self._port

    @property
    def base_url(self) -> str:
        """The ``api_base`` for LiteLLM."""
        return f"http://{self.host}:{self._port}/v1"

    def stats(self) -> ProviderStats:
        """The counters now."""
        return ProviderStats(**{f.name: getattr(self, f.name) for f in fields(ProviderStats)})

    async def start(self) -> Self:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        self._protocols = _CountingServer(self, self._keepalive_timeout)
        self._listener = await asyncio.get_running_loop().create_server(
            self._protocols, self.host, self._wanted_port, backlog=1024
        )
        self._port = self._listener.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Stop listening and close every connection; does nothing when not started."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._protocols is not None:
            await self._protocols.shutdown(1.0)
            self._protocols = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        self.requests += 1
        endpoint = (request.method, request.path.removeprefix("/v1"))
        if endpoint == ("GET", "/models"):
            return web.json_response(
                {"object": "list", "data": [{"id": "fake-model", "object": "model"}]}
            )
        if endpoint == ("POST", "/records"):
            self.records.update((await request.json())["ids"])
            return web.json_response({})
        if endpoint not in {("POST", "/chat/completions"), ("POST", "/embeddings")}:
            return _error(404, f"no such endpoint: {request.method} {request.path}")
        try:
            body = await request.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return _error(400, "the request body is not a JSON object")
        self.generations += 1
        return await self._generate(request, endpoint[1], body)

    async def _generate(
        self, request: web.BaseRequest, endpoint: str, body: Mapping[str, Any]
    ) -> web.StreamResponse:
        model = str(body.get("model", "fake-model"))
        if endpoint == "/chat/completions" and body.get("stream"):
            return await self._stream(request, model)
        if self.settings.delay > 0:
            await asyncio.sleep(self.settings.delay)
        if endpoint == "/embeddings":
            return web.json_response(_embeddings(model, body.get("input", "")))
        completion = _completion(model)
        if messages := body.get("messages"):
            self.asked[completion["id"]] = str(messages[-1]["content"])
        return web.json_response(completion)

    async def _stream(self, request: web.BaseRequest, model: str) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        completed = False
        name = _new_id()
        self.streams_open += 1
        try:
            await response.prepare(request)
            if self.settings.delay > 0:
                await asyncio.sleep(self.settings.delay)
            for number in range(self.settings.chunks):
                if number and self.settings.chunk_interval > 0:
                    await asyncio.sleep(self.settings.chunk_interval)
                await response.write(
                    _event(_chunk(name, model, {"content": f"word{number} "}, None))
                )
            await response.write(_event(_chunk(name, model, {}, "stop")))
            # At once: some clients close the connection at [DONE] instead of reading on to the end.
            await response.write_eof(b"data: [DONE]\n\n")
            completed = True
        finally:
            self.streams_open -= 1
            if completed:
                self.streams_completed += 1
            else:
                self.streams_aborted += 1
        return response


class ProviderThread(Started):
    """A `FakeProvider` in a daemon thread with its own event loop, for synchronous code.

    A context manager. Takes the arguments of `FakeProvider`, whose `settings` and counters are
    reachable through `provider`.
    """

    def __init__(self, **options: Any) -> None:
        self.provider = FakeProvider(**options)
        self._ready = threading.Event()
        self._error: OSError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The TCP port; 0 before `start`."""
        return self.provider.port

    @property
    def base_url(self) -> str:
        """The ``api_base`` for LiteLLM."""
        return self.provider.base_url

    @property
    def settings(self) -> ProviderSettings:
        """The settings; assign to its fields at any time."""
        return self.provider.settings

    def stats(self) -> ProviderStats:
        """The counters now."""
        return self.provider.stats()

    def start(self) -> Self:
        """Start the thread and return once it listens.

        Raises:
            OSError: the port is taken.
        """
        self._ready.clear()
        self._error = None
        self._thread = threading.Thread(target=self._run, name="fake-provider", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self

    def stop(self, timeout: float = 5.0) -> None:
        """Stop the provider and wait up to `timeout` seconds for its thread."""
        thread, loop, stop = self._thread, self._loop, self._stop
        if thread is None:
            return
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)
        thread.join(timeout)
        self._thread = None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self.provider:
            self._ready.set()
            await self._stop.wait()


def _error(status: int, message: str) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": "invalid_request_error", "code": str(status)}},
        status=status,
    )


def _new_id() -> str:
    """Return what no other completion is called: LiteLLM has one row of spend for each name."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def _completion(model: str) -> dict[str, Any]:
    return {
        "id": _new_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello from the fake provider."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11},
    }


def _chunk(
    name: str, model: str, delta: dict[str, str], finish_reason: str | None
) -> dict[str, Any]:
    return {
        "id": name,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def _embeddings(model: str, texts: Any) -> dict[str, Any]:
    count = len(texts) if isinstance(texts, list) else 1
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": [0.0, 0.6, 0.8]}
            for index in range(count)
        ],
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
