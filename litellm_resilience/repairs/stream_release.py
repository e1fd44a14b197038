"""A pooled connection always comes back.

Up to LiteLLM 1.89.7 a streamed reply that ends abnormally (the client hangs up, a read timeout)
keeps its slot in the connector for ever, and after `limit_per_host` of them the provider cannot be
reached. A reply that is dropped before it is read does so on every version: aiohttp's protocol
keeps the response alive, so it is never finalised.

An abandoned iterator is no better than a dropped reply where LiteLLM's stream wrapper sits in a
reference cycle: it waits for the garbage collector. So the streams read on behalf of a request
are noted, and those that nobody is reading are closed when the reply to the client is over.
"""

from __future__ import annotations

import functools
import importlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import (
    IncompatibleError,
    Outcome,
    PatchState,
    require,
    require_async,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litellm_resilience.repairs.base import Context

PARKED_ATTRIBUTE = "_litellm_resilience_parked"

unfinished: ContextVar[set[Any] | None] = ContextVar("unfinished", default=None)
"""Streams read on behalf of the request being served that have not come to their end."""


def apply(context: Context) -> Outcome:
    """Release the connection when a reply ends, is closed or is dropped."""
    stream_class = context.transport.AiohttpResponseStream
    require(stream_class, "__aiter__", "aclose")
    iterate = stream_class.__aiter__
    native = releases_when_abandoned(stream_class)
    if not native:
        context.changes.replace(stream_class, "__aiter__", _releasing(iterate))
        _close_what_nobody_reads(context)
    context.changes.replace(stream_class, "__del__", _release_when_dropped)
    _unwrap_streams(context, stream_class)
    if native:
        return Outcome(PatchState.APPLIED, "LiteLLM releases abandoned streams; unread ones added")
    return Outcome(PatchState.APPLIED, "streams release their connection however they end")


def _releasing(iterate: Any) -> Any:
    @functools.wraps(iterate)
    async def releasing_iterate(self: Any) -> AsyncIterator[bytes]:
        noted = unfinished.get()
        try:
            async for chunk in iterate(self):
                if noted is None:
                    noted = unfinished.get()
                if noted is not None:
                    noted.add(self)
                setattr(self, PARKED_ATTRIBUTE, True)
                yield chunk
                setattr(self, PARKED_ATTRIBUTE, False)
        finally:
            if noted is not None:
                noted.discard(self)
            _close(self._aiohttp_response)

    return releasing_iterate


def _close_what_nobody_reads(context: Context) -> None:
    """Close a request's abandoned streams as soon as its streaming response has ended.

    A stream that a background task of the request is still reading is waiting for data, not
    parked between two chunks, and is left alone.
    """
    application = importlib.import_module("starlette.applications").Starlette
    streaming = importlib.import_module("starlette.responses").StreamingResponse
    serve = require_async(application, "__call__", "self", "scope", "receive", "send")
    respond = require_async(streaming, "__call__", "self", "scope", "receive", "send")

    @functools.wraps(serve)
    async def noting_serve(self: Any, scope: Any, receive: Any, send: Any) -> None:
        token = unfinished.set(set())
        try:
            await serve(self, scope, receive, send)
        finally:
            unfinished.reset(token)

    @functools.wraps(respond)
    async def releasing_respond(self: Any, scope: Any, receive: Any, send: Any) -> None:
        try:
            await respond(self, scope, receive, send)
        finally:
            for stream in list(unfinished.get() or ()):
                if getattr(stream, PARKED_ATTRIBUTE, False):
                    _close(stream._aiohttp_response)

    context.changes.replace(application, "__call__", noting_serve)
    context.changes.replace(streaming, "__call__", releasing_respond)


def releases_when_abandoned(stream_class: Any) -> bool:
    """Say whether LiteLLM's own iterator closes the response when it is abandoned half-way."""
    response = _ProbeResponse()
    iterator = stream_class(response).__aiter__()
    require(iterator, "__anext__", "aclose")
    _run_without_loop(iterator.__anext__())
    _run_without_loop(iterator.aclose())
    return response.closed


def _run_without_loop(awaitable: Any) -> None:
    try:
        awaitable.__await__().send(None)
    except StopIteration:
        return
    raise IncompatibleError("AiohttpResponseStream.__aiter__ waits for something unknown")


class _ProbeResponse:
    """As much of an aiohttp response as an abandoned stream touches."""

    def __init__(self) -> None:
        self.closed = False
        self.content = self

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        while True:
            yield b"." * min(size, 1)

    def close(self) -> None:
        self.closed = True


def _close(response: Any) -> None:
    """Return the connection to the pool, or close it if the reply was not read to its end.

    LiteLLM's own tests pass stand-ins for a response that cannot be closed.
    """
    close = getattr(response, "close", None)
    if close is not None:
        close()


def _release_when_dropped(self: Any) -> None:
    response = getattr(self, "_aiohttp_response", None)
    loop = getattr(response, "_loop", None)
    if loop is None or loop.is_closed() or getattr(response, "closed", True):
        return
    loop.call_soon_threadsafe(_close, response)


def _unwrap_streams(context: Context, stream_class: Any) -> None:
    """Hand httpx the stream itself, so that closing the httpx response reaches it.

    Up to 1.81.13 LiteLLM passes it as `content=`, and httpx wraps it in an iterator that has no
    way to close it.
    """
    transport_class = context.transport.LiteLLMAiohttpTransport
    handle = transport_class.handle_async_request

    @functools.wraps(handle)
    async def handle_async_request(self: Any, request: Any) -> Any:
        response = await handle(self, request)
        stream = response.stream
        if not isinstance(stream, stream_class):
            inner = getattr(stream, "_stream", None)
            if isinstance(inner, stream_class):
                response.stream = inner
        return response

    context.changes.replace(transport_class, "handle_async_request", handle_async_request)
