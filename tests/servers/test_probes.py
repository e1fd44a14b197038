"""Health and metrics beside real workers, whatever these do, without LiteLLM."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket

import pytest
from supervised import Service, probe

from litellm_resilience.demo.proxy import free_port


def test_probes_are_answered_whatever_stands_still_or_is_gone(service: Service) -> None:
    """Life follows the supervisor, readiness the workers: one that turns is enough."""
    port = free_port()
    service.start(workers=2, visibility={"health_port": port}, start="spawn")
    service.wait_log(f"Health at http://127.0.0.1:{port}/ready")
    assert probe(port, "/drain") == probe(port, "/metrics") == (404, {"paths": ["/live", "/ready"]})
    assert probe(port, "/live") == (200, {"live": True, "reasons": []})
    first, second = service.living()
    for process in (first, second, service.process.pid):
        os.kill(process, signal.SIGSTOP)
    service.wait(lambda: probe(port, "/ready")[0] == 503, "workers that stand still")
    (reason,) = probe(port, "/ready")[1]["reasons"]
    assert reason.startswith("the event loop of each of 2 workers has not turned for ")
    service.wait(lambda: probe(port, "/live")[0] == 503, "a supervisor that stands still")
    os.kill(first, signal.SIGCONT)
    service.wait(lambda: probe(port, "/ready")[0] == 200, "a worker that turns")
    service.set_mode("slow")
    for process in (first, second):
        os.kill(process, signal.SIGKILL)
    service.signal(signal.SIGCONT)
    service.wait(lambda: probe(port, "/live")[0] == 200, "a supervisor that turns")
    service.wait(lambda: "no worker serves" in str(probe(port, "/ready")), "dead workers")


def test_a_drain_for_pre_stop_is_answered_when_it_begins(service: Service) -> None:
    """Until then the proxy serves, and says that it should not be sent anything more."""
    port = free_port()
    service.start(workers=1, visibility={"health_port": port, "drain_delay": 1.0})
    service.wait(lambda: probe(port, "/ready")[0] == 200, "readiness")
    streaming = service.client()
    finish = streaming.begin("/stream/15")
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    asking.request("GET", "/drain")
    service.wait(lambda: probe(port, "/ready")[0] == 503, "unreadiness")
    client = service.client()
    client.get()
    client.close()
    assert json.load(asking.getresponse()) == {"drain": True, "reasons": []}
    service.wait_log("Command drain: draining")
    assert finish().endswith("done\n")
    streaming.close()
    assert service.wait_exit() == 0
    assert probe(port, "/live")[0] == 0


def test_a_port_that_is_taken_costs_one_line(service: Service) -> None:
    """The other port is served, with the same answers."""
    pytest.importorskip("prometheus_client")
    metrics = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        health = taken.getsockname()[1]
        service.start(workers=1, visibility={"health_port": health, "metrics_port": metrics})
        service.wait_log(f"listen for health at http://127.0.0.1:{health}/ready: Address already")
        service.wait_log(f"Metrics at http://127.0.0.1:{metrics}/metrics")
        assert probe(metrics, "/live")[0] == 200
        assert service.client().pid() in service.living()
    assert "Traceback" not in service.log()


def test_bad_requests_cost_nobody_else_an_answer(service: Service) -> None:
    port = free_port()
    service.start(workers=1, visibility={"health_port": port})
    service.wait(lambda: probe(port, "/ready")[0] == 200, "readiness")
    said = [b"", b"\x00\xff" * 100_000, b"GET /ready HTTP/1.1\r\n", b"GET /" + b"x" * 1_000_000]
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(len(said) * 50)]
    for client, data in zip(clients, said * 50, strict=True):
        client.setblocking(False)
        with contextlib.suppress(OSError):
            client.send(data)
    assert probe(port, "/ready") == (200, {"ready": True, "reasons": []})
    assert probe(port, "/live") == (200, {"live": True, "reasons": []})
    for client in clients:
        client.close()
    assert "Traceback" not in service.log()
