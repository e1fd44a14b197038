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

from litellm_resilience.demo.proxy import POLL_INTERVAL, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextlib.contextmanager
def front(name: str, upstream: int) -> Iterator[int]:
    """Run a reverse proxy on 127.0.0.1 as a child process.

    Args:
        name: of the program, one of `PROGRAMS`.
        upstream: TCP port on 127.0.0.1 that requests are passed to.

    Returns:
        The TCP port on 127.0.0.1 that it listens on.

    Raises:
        RuntimeError: it is not installed, or does not listen.
    """
    program = executable(name)
    if program is None:
        raise RuntimeError(f"{name} is not installed")
    template, arguments = PROGRAMS[name]
    port = free_port()
    with tempfile.TemporaryDirectory(prefix=f"benchmark-{name}-") as directory:
        values = {"directory": directory, "upstream": upstream, "port": port}
        config, output = Path(directory) / "front.conf", Path(directory) / "output.log"
        config.write_text(template.format(**values))
        command = [program, *(each.format(**values) for each in arguments), str(config)]
        with (
            output.open("wb") as log,
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
        ):
            try:
                if not _listens(process, port):
                    said = output.read_text(errors="replace")
                    raise RuntimeError(f"{name} does not listen:\n{said}")
                yield port
            finally:
                process.kill()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait for it."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return True
        time.sleep(POLL_INTERVAL)
    return False
