"""What operators tell a supervisor of real workers, without LiteLLM."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from supervised import Service, alive, probe

from litellm_resilience.demo.proxy import free_port
from litellm_resilience.status.channel import ask


def whole(finish: Callable[[], str]) -> bool:
    """Say whether a stream comes to its end."""
    with contextlib.suppress(http.client.IncompleteRead):
        return finish().endswith("done\n")
    return False


def test_workers_are_replaced_and_counted_as_told(service: Service) -> None:
    """At first by the command that operators type; a stream goes on through all of it."""
    service.start(workers=2)
    first, second = map(int, re.findall(r"Worker \d \(pid (\d+)\) started", service.log()))
    client = service.client_of(second)
    finish = client.begin("/stream/20")
    typed = ["--ctl", "recycle", "1", "--port", str(service.port)]
    told = subprocess.run(
        [sys.executable, "-m", "litellm_resilience", *typed],
        env={**os.environ, "TMPDIR": str(service.status_socket.parents[1])},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.decode() == f"replacing worker 1 (pid {first})\n"
    service.wait(lambda: not alive(first), "end of worker 1")
    assert service.wait_settled(2)[0] == second
    assert "there is no worker 1" in ask(service.status_socket, ["recycle", "1"])["refused"]
    assert ask(service.status_socket, ["roll"])["workers"] == [2, 3]
    assert whole(finish)
    client.close()
    service.wait(lambda: not alive(second), "end of worker 2")
    service.wait_settled(2)
    assert ask(service.status_socket, ["workers", "1"])["target"] == 1
    service.wait_settled(1)
    assert service.status()["totals"]["recycled"]["roll"] == 3


@pytest.mark.parametrize(
    ("word", "seconds"), [("drain", 1), ("SIGTERM", None), ("stop", 1)], ids=str
)
def test_a_drain_waits_for_what_a_stop_ends(
    service: Service, word: str, seconds: int | None
) -> None:
    """None takes a new connection or is ready; a worker that is being started ends with each.

    A SIGTERM drains too where no grace is set.
    """
    port = free_port()
    service.start(workers=2, timeout_graceful_shutdown=seconds, visibility={"health_port": port})
    service.wait(lambda: probe(port, "/ready")[0] == 200, "readiness")
    service.set_mode("slow")
    service.signal(signal.SIGTTIN)
    service.wait(lambda: len(service.ever_started()) == 3, "third worker")
    client = service.client()
    finish = client.begin("/stream/25")
    service.wait(lambda: sum(w["in_flight"] for w in service.status()["workers"]), "request")
    if word == "SIGTERM":
        service.signal(signal.SIGTERM)
    else:
        assert ask(service.status_socket, [word])["done"].startswith(word[:3])
    service.wait(service.refuses, "refusal")
    assert service.process.poll() is None, "it is refused while something is under way"
    if word != "stop":
        status, body = probe(port, "/ready")
        assert (status, body["ready"]) == (503, False), body
        assert probe(port, "/live")[0] == 200
    assert whole(finish) is (word != "stop")
    client.close()
    assert service.wait_exit() == 0
    assert not [pid for pid in service.ever_started() if alive(pid)]
