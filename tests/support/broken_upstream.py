"""An OpenAI-compatible upstream on a raw socket, which misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any

from litellm_resilience.demo.lifetime import Started

HOST = "127.0.0.1"
REPLY = {
    "id": "chatcmpl-raw",
    "object": "chat.completion",
    "created": 1,
    "model": "fake-model",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello from the raw upstream."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11},
}
EVENTS = 8
LAST_WORD = b"word7"
"""In a stream that is whole."""
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Fault(Enum):
    """What happens to a chat request."""

    NONE = auto()
    """It is answered, and its connection kept."""
    REFUSE = auto()
    """The port is closed, and so are all connections."""
    RESET = auto()
    """Half the reply, then RST."""
    STALL = auto()
    """No reply, and the connection stays."""
    CUT = auto()
    """Half the reply, then the connection is closed."""
    CLOSE_AFTER_REPLY = auto()
    """The whole reply with ``Connection: close``, and so it is done."""
    CLOSE_ON_REUSE = auto()
    """A connection that has served a request before is closed on the next; others are served."""


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.served = 0
        self.faulty = False

    async def read_request(self) -> tuple[bytes, bytes]:
        """Return request line and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = head.lower().split(b"\r\n")
        fields = dict(each.split(b": ", 1) for each in lines if b": " in each)
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return line, body
        return line, await self.reader.readexactly(int(fields.get(b"content-length", b"0")))

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.writer.transport.abort()


class BrokenUpstream(Started):
    """The upstream in a thread of its own; a context manager.

    Attributes:
        port: its TCP port on 127.0.0.1, kept while it refuses connections.
        requests: chat requests received.
        met: chat requests that a fault was done to, and that could notice.
        connections_opened: connections that have carried a chat request.
    """

    def __init__(self) -> None:
        self.requests = self.met = self.connections_opened = 0
        self._fault = Fault.NONE
        self._connections: set[_Connection] = set()
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind((HOST, 0))
        self.port: int = self._reservation.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listener: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        """The ``api_base`` for LiteLLM."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    @property
    def faulty(self) -> int:
        """How many connections are open on which a fault was met."""
        return sum(each.faulty for each in tuple(self._connections))

    def start(self) -> BrokenUpstream:
        """Listen."""
        self._thread.start()
        self._run(self._listen())
        return self

    def stop(self) -> None:
        """Close everything."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self._reservation.close()

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        """Do this to every request that arrives inside the context."""
        self._fault = fault
        if fault is Fault.REFUSE:
            self._run(self._close())
        try:
            yield
        finally:
            if fault is Fault.REFUSE:
                self._run(self._listen())
            self._fault = Fault.NONE

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._serve, HOST, self.port, reuse_address=True, backlog=256
        )

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for connection in tuple(self._connections):
            connection.writer.transport.abort()
        while self._connections:
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer)
        self._connections.add(connection)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(connection):
                    pass
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _answer(self, connection: _Connection) -> bool:
        """Answer one request; return whether the connection is kept."""
        line, body = await connection.read_request()
        if not line.startswith(b"post"):
            # Newer LiteLLM asks for the models now and then, over connections of its own.
            connection.writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        self.requests += 1
        self.connections_opened += connection.served == 0
        fault = self._fault
        head, parts = _reply(
            streaming=bool(json.loads(body).get("stream")),
            last=fault is Fault.CLOSE_AFTER_REPLY,
        )
        if fault is Fault.CLOSE_ON_REUSE and connection.served:
            self.met += 1
            return False
        connection.served += 1
        if fault is Fault.STALL:
            self.met += 1
            connection.faulty = True
            await connection.reader.read()
            return False
        connection.writer.write(head)
        broken_off = fault in {Fault.RESET, Fault.CUT}
        for part in parts[: len(parts) // 2] if broken_off else parts:
            connection.writer.write(part)
            await connection.writer.drain()
            await asyncio.sleep(0.002)
        if broken_off:
            self.met += 1
        if fault is Fault.RESET:
            connection.reset()
        return fault in {Fault.NONE, Fault.CLOSE_ON_REUSE}


def _reply(*, streaming: bool, last: bool) -> tuple[bytes, list[bytes]]:
    """Return head and body of the whole reply, the body in parts."""
    if not streaming:
        body = json.dumps(REPLY).encode()
        half = len(body) // 2
        kind, framing = "application/json", f"Content-Length: {len(body)}"
        parts = [body[:half], body[half:]]
    else:
        kind, framing = "text/event-stream", "Transfer-Encoding: chunked"
        parts = [_chunk(_event({"content": f"word{number} "}, None)) for number in range(EVENTS)]
        parts += [_chunk(_event({}, "stop")), _chunk(b"data: [DONE]\n\n") + _chunk(b"")]
    closing = "Connection: close\r\n" if last else ""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{closing}{framing}\r\n\r\n"
    return head.encode(), parts


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {**REPLY, "object": "chat.completion.chunk", "choices": [choice]}
    del chunk["usage"]
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
