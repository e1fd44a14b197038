"""nginx and HAProxy as reverse proxies that keep connections, and that never retry."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_resilience.demo.lifetime import Started
from litellm_resilience.demo.proxy import POLL_INTERVAL, free_port

if TYPE_CHECKING:
    from typing_extensions import Self

START_SECONDS = 10.0

NGINX = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  upstream litellm {{
    server 127.0.0.1:{upstream} max_fails=0;
    keepalive 64;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://litellm;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream off;
      proxy_buffering off;
    }}
  }}
}}
"""

HAPROXY = """\
global
  maxconn 1024
defaults
  mode http
  option http-keep-alive
  http-reuse always
  retries 0
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend clients
  bind 127.0.0.1:{port}
  default_backend litellm
backend litellm
  server litellm 127.0.0.1:{upstream}
"""

PROGRAMS = {
    "nginx": (NGINX, ("-p", "{directory}", "-e", "{directory}/error.log", "-c")),
    "haproxy": (HAPROXY, ("-db", "-f")),
}
"""Configuration and arguments before its path, by name of the program."""


def executable(name: str) -> str | None:
    """Where a program is; None if it is not installed."""
    usual = os.pathsep.join(("/usr/sbin", "/usr/local/sbin"))
    return shutil.which(name) or shutil.which(name, path=usual)


class Front(Started):
    """A reverse proxy on 127.0.0.1 as a child process.

    Args:
        name: of the program, one of `PROGRAMS`.
        upstream: TCP port on 127.0.0.1 that requests are passed to.

    Attributes:
        port: TCP port on 127.0.0.1 that it listens on.
    """

    def __init__(self, name: str, upstream: int) -> None:
        self._name = name
        self._upstream = upstream
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path()
        self.port = 0

    def start(self) -> Self:
        """Start it, and return once it listens.

        Raises:
            RuntimeError: it is not installed, or does not listen.
        """
        program = executable(self._name)
        if program is None:
            raise RuntimeError(f"{self._name} is not installed")
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix=f"benchmark-{self._name}-"))
        template, arguments = PROGRAMS[self._name]
        values = {"directory": self._directory, "upstream": self._upstream, "port": self.port}
        path = self._directory / "front.conf"
        path.write_text(template.format(**values))
        with (self._directory / "output.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *(each.format(**values) for each in arguments), str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            time.sleep(POLL_INTERVAL)
        output = (self._directory / "output.log").read_text(errors="replace")
        raise RuntimeError(f"{self._name} does not listen:\n{output}")
