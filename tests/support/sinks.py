"""Servers that telemetry and logs are sent to, and one that knows secrets."""

from __future__ import annotations

import json
import re
import ssl
import struct
import subprocess
import threading
import zlib
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from litellm_resilience.demo.lifetime import Started

CERTIFY = (
    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
    *("-subj", "/CN=collector", "-addext", "subjectAltName=IP:127.0.0.1"),
)
GZIP = 16 + zlib.MAX_WBITS


class _Server(ThreadingHTTPServer):
    request_queue_size = 256


class Sink(Started):
    """An HTTP/1.1 server on 127.0.0.1 that keeps connections open; a context manager.

    Attributes:
        connections: what was asked over each connection, by the client's port.
        status: of each answer.
    """

    def __init__(self) -> None:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._reply(self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def do_PUT(self) -> None:
                self.do_POST()

            def do_GET(self) -> None:
                self._reply(b"")

            def _reply(self, body: bytes) -> None:
                sink.connections[self.client_address[1]].append(self.path)
                answer = sink.take(self.path, body)
                self.send_response(sink.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with suppress(ConnectionError):  # who asked may have ended
                    self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.status = 200
        self.connections: dict[int, list[str]] = defaultdict(list)
        self._server = _Server(("127.0.0.1", 0), Handler)
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
        name: of the span, or an empty string.
        pid: ``process.pid``, or 0.
        instance: ``service.instance.id``, Datadog's ``runtime-id``, or an empty string.
        reply: ``gen_ai.response.id``, or an empty string.
    """

    name: str
    pid: int
    instance: str
    reply: str = ""


RUNTIME_AND_PROCESS = re.compile(rb"runtime-id\xd9 (.{32}).*?process_id\xcb(.{8})", re.DOTALL)
"""Of the root spans in Datadog's format of version 0.4: a text and a number of 8 bytes."""


class TelemetrySink(Sink):
    """Receives OTLP over HTTP, as protobuf, and what is meant for Datadog's agent.

    Attributes:
        spans: all that came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Span] = []

    def replies(self) -> Counter[str]:
        """How many spans tell of each reply."""
        return Counter(span.reply for span in self.spans if span.reply)

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
                    Span(span.name, pid, instance.string_value if instance else "", _reply(span))
                    for scope in group.scope_spans
                    for span in scope.spans
                ]
        if path == "/v0.4/traces":
            self.spans += [
                Span("", int(struct.unpack(">d", process)[0]), runtime.decode())
                for runtime, process in RUNTIME_AND_PROCESS.findall(body)
            ]
            return b"{}"
        return b""


def _reply(span: Any) -> str:
    ids = (each.value for each in span.attributes if each.key == "gen_ai.response.id")
    return next((value.string_value for value in ids), "")


class CollectorSink(Sink):
    """Stands for New Relic's collector, over TLS.

    Args:
        folder: for its certificate.

    Attributes:
        spans: all transactions that came; their instance is that of the agent's session.
        environment: what an agent needs to find it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.spans: list[Span] = []
        self._processes: dict[str, int] = {}
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        files = ("-keyout", str(key), "-out", str(certificate))
        subprocess.run([*CERTIFY, *files], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.environment = {
            "NEW_RELIC_HOST": "127.0.0.1",
            "NEW_RELIC_PORT": str(self._server.server_address[1]),
            "NEW_RELIC_CA_BUNDLE_PATH": str(certificate),
            "NEW_RELIC_LICENSE_KEY": "0" * 40,
        }

    def take(self, path: str, body: bytes) -> bytes:
        """Answer as the collector does; what is said after ``connect`` belongs to a session."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        sent = json.loads(zlib.decompress(body, GZIP) if body.startswith(b"\x1f\x8b") else body)
        answer: dict[str, str] | None = None
        if asked["method"] == "preconnect":
            answer = {"redirect_host": "127.0.0.1"}
        elif asked["method"] == "connect":
            session = f"session {len(self._processes)}"
            self._processes[session] = sent[0]["pid"]
            answer = {"agent_run_id": session}
        elif asked["method"] == "analytic_event_data":
            session = asked["run_id"]
            self.spans += [
                Span(event[0]["name"], self._processes[session], session) for event in sent[2]
            ]
        return json.dumps({"return_value": answer}).encode()


class LoggingSink(Sink):
    """Receives what LiteLLM's ``generic_api`` and callbacks of the operator send.

    Attributes:
        records: all that came from ``generic_api``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def take(self, path: str, body: bytes) -> bytes:
        """Keep one record or a list of them."""
        if body:
            sent = json.loads(body)
            self._records[path] += sent if isinstance(sent, list) else [sent]
        return b""

    @property
    def records(self) -> list[dict[str, Any]]:
        return self._records["/logs"]

    def forget(self) -> None:
        """Forget what has come so far."""
        self._records.clear()

    def ids(self, path: str) -> Counter[str]:
        """How often each reply was recorded at a path."""
        return Counter(record["id"] for record in self._records[path])


class SecretServer(Sink):
    """Knows a secret for each name."""

    def take(self, path: str, body: bytes) -> bytes:
        """Return the secret; the path ends in its name and the process id of who asks."""
        return f"secret of {path.split('/')[2]}".encode()
