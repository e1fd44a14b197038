"""A WebSocket client that refuses what strict ones refuse, without a package of its own."""

from __future__ import annotations

import socket

import pytest
from uvicorn.config import WS_PROTOCOLS
from uvicorn.importer import import_from_string

PROTOCOLS = ("websockets", "websockets-sansio", "wsproto")
"""uvicorn's names of all that it may have."""
TIMEOUT = 20.0


def require(protocol: str) -> None:
    """Skip a test if the installed uvicorn does not have this WebSocket protocol, or cannot."""
    path = dict[str, str | None](WS_PROTOCOLS).get(protocol)
    if path is None:
        pytest.skip(f"this uvicorn has no {protocol}")
    pytest.importorskip(protocol.partition("-")[0])
    import_from_string(path)


def request(path: str = "/") -> bytes:
    """Return the first bytes that a client sends."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def connection_tokens(reply: bytes) -> list[str]:
    """Return all that the headers of a reply say of the connection."""
    lines = reply.decode("latin-1").lower().split("\r\n")
    values = [line.partition(":")[2] for line in lines if line.startswith("connection:")]
    return [token.strip() for value in values for token in value.split(",")]


def refusal(reply: bytes) -> str | None:
    """Return why a strict client refuses the reply to its handshake; None if it does not."""
    if not reply.startswith(b"HTTP/1.1 101 "):
        return f"no switch of protocols: {reply!r}"
    if connection_tokens(reply) != ["upgrade"]:
        return f"not just an upgrade: {reply!r}"
    return None


def shake_hands(port: int, path: str = "/") -> str | None:
    """Open a WebSocket and hang up; return why it failed, or None.

    Args:
        port: of the server on 127.0.0.1.
        path: of the WebSocket.
    """
    reply = b""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
            connection.sendall(request(path))
            while not reply.endswith(b"\r\n\r\n"):
                received = connection.recv(4096)
                if not received:
                    break
                reply += received
    except OSError as error:
        return repr(error)
    return refusal(reply)
