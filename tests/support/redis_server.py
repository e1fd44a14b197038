"""A real Redis that can be frozen and killed."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from litellm_resilience.demo.lifetime import Started
from litellm_resilience.demo.proxy import free_port

BINARY = shutil.which("redis-server")
START_SECONDS = 10.0


class RedisServer(Started):
    """Redis on 127.0.0.1, without persistence; a context manager.

    Attributes:
        port: its TCP port, the same after `restart`.
    """

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="faults-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it does not answer in time, or there is no ``redis-server``.
        """
        if BINARY is None:
            raise RuntimeError("there is no redis-server")
        address = ("--bind", self.host, "--port", str(self.port))
        storage = ("--save", "", "--appendonly", "no", "--dir", str(self._directory))
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen([BINARY, *address, *storage], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self._directory / "log").read_text())
            time.sleep(0.02)
        return self

    def answers(self) -> bool:
        """Say whether it answers within half a second."""
        with (
            suppress(OSError),
            socket.create_connection((self.host, self.port), 0.5) as connection,
        ):
            connection.settimeout(0.5)
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, frozen or not."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(5)

    def stop(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
