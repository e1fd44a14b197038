"""Limits that uvicorn's own workers stop at, where ours are not in force."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from uvicorn.supervisors import Multiprocess

from litellm_resilience.demo.proxy import free_port

LIMIT, JITTER = 20, 40
# A worker looks at its counter ten times a second, and is asked about 30 times a second.
OVERSHOOT = 40

APPLICATION = """
import asyncio
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await asyncio.sleep(0.03)
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

SERVE = """
import sys
import uvicorn
from litellm_resilience.servers import uvicorn as uvicorn_server

if __name__ == "__main__":
    port, limit, jitter = map(int, sys.argv[1:])
    recycling = uvicorn_server.recycling_arguments(limit, jitter)
    uvicorn.run("small_app:app", port=port, workers=2, lifespan="off", **recycling)
"""


@pytest.mark.skipif(
    not hasattr(Multiprocess, "keep_subprocess_alive"), reason="uvicorn 0.29 replaces no worker"
)
def test_workers_and_generations_stop_at_limits_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "small_app.py").write_text(APPLICATION)
    (tmp_path / "serve.py").write_text(SERVE)
    port = free_port()
    log = (tmp_path / "log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "serve.py", str(port), str(LIMIT), str(JITTER)],
        cwd=tmp_path,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    served: Counter[int] = Counter()
    deadline = time.monotonic() + 90
    try:
        while len(served) < 7 and time.monotonic() < deadline:
            served.update(ask(port))
        ended = [count for pid, count in served.items() if not Path(f"/proc/{pid}").exists()]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
        log.close()
    assert len(ended) >= 4, (tmp_path / "log").read_text()
    assert all(LIMIT <= count <= LIMIT + JITTER + OVERSHOOT for count in ended), served
    assert len(set(ended)) > 1


def ask(port: int) -> list[int]:
    """Return the pid of the worker that answered, or nothing while none listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return [int(connection.getresponse().read())]
    except (OSError, http.client.HTTPException):
        time.sleep(0.02)
        return []
    finally:
        connection.close()
