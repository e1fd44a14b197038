"""Servers that telemetry and logs are sent to, and one that knows secrets."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from litellm_resilience.demo.lifetime import Started


class Sink(Started):
    """An HTTP/1.1 server on 127.0.0.1 that keeps connections open; a context manager.

    Attributes:
        connections: what was asked over each connection, by the client's port.
    """

    def __init__(self) -> None:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._reply(self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def do_GET(self) -> None:
                self._reply(b"")

            def _reply(self, body: bytes) -> None:
                sink.connections[self.client_address[1]].append(self.path)
                answer = sink.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.connections: dict[int, list[str]] = defaultdict(list)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> Sink:
        """Serve in a thread."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, body: bytes) -> bytes:
        """Keep what was sent; return the answer."""
        raise NotImplementedError


@dataclass(frozen=True)
class Span:
    """A span, with what it says of the process it comes from.

    Attributes:
        name: of the span.
        pid: ``process.pid``, or 0.
        instance: ``service.instance.id``, or an empty string.
    """

    name: str
    pid: int
    instance: str


class TelemetrySink(Sink):
    """Receives OTLP over HTTP, as protobuf.

    Attributes:
        spans: all that came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Span] = []

    def take(self, path: str, body: bytes) -> bytes:
        """Keep spans; anything else is accepted and forgotten."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        if path == "/v1/traces":
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                known = {each.key: each.value for each in group.resource.attributes}
                pid = known["process.pid"].int_value if "process.pid" in known else 0
                instance = known.get("service.instance.id")
                self.spans += [
                    Span(span.name, pid, instance.string_value if instance else "")
                    for scope in group.scope_spans
                    for span in scope.spans
                ]
        return b""


class LoggingSink(Sink):
    """Receives what LiteLLM's ``generic_api`` sends.

    Attributes:
        records: all that came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[dict[str, Any]] = []

    def take(self, path: str, body: bytes) -> bytes:
        """Keep one record or a list of them."""
        if path == "/logs":
            sent = json.loads(body)
            self.records += sent if isinstance(sent, list) else [sent]
        return b""


class SecretServer(Sink):
    """Knows a secret for each name."""

    def take(self, path: str, body: bytes) -> bytes:
        """Return the secret; the path ends in its name and the process id of who asks."""
        return f"secret of {path.split('/')[2]}".encode()
