"""Recycling real uvicorn workers under load, without LiteLLM."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from supervised import Service

from litellm_resilience.demo.load import LoadReport, run_load
from tests.support import strict_websocket

LIMIT, JITTER = 40, 20


def load(service: Service, seconds: float, clients: int = 4) -> LoadReport:
    """Keep-alive load that counts an unannounced close of an idle connection as a failure."""
    return asyncio.run(
        run_load(
            "127.0.0.1",
            service.port,
            clients=clients,
            seconds=seconds,
            body={},
            path="/wait/0.01",
            notice_idle_close=False,
        )
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_request_is_lost_while_workers_are_recycled(
    service: Service, workers: int, loop: str
) -> None:
    pytest.importorskip(loop)
    service.start(
        workers=workers, limit=LIMIT, jitter=JITTER, settings={"min_lifetime": 0}, loop=loop
    )
    for _ in range(10):
        report = load(service, 2)
        assert report.failures == {}
        assert report.silent_seconds() == 0
        if service.count(" drained after ") >= 3:
            break
    service.wait_log(" drained after ", times=3)


def test_every_worker_draws_its_limit(service: Service) -> None:
    """The line that reports the limit tells the count at most one tick after it was reached."""
    service.start(workers=2, limit=LIMIT, jitter=100, settings={"min_lifetime": 0})
    for _ in range(10):
        assert load(service, 2).failures == {}
        if service.count("will be replaced") >= 3:
            break
    words = [line.split() for line in service.log().splitlines() if "will be replaced" in line]
    counts = [int(line[line.index("answered") + 1]) for line in words]
    assert len(counts) >= 3
    assert all(LIMIT <= count <= LIMIT + 100 + 100 for count in counts), counts
    assert len(set(counts)) > 1


def test_spawned_workers_are_recycled_as_well(service: Service) -> None:
    service.start(workers=2, limit=LIMIT, settings={"min_lifetime": 0}, start="spawn")
    assert "Supervising 2 workers, spawned: asked to spawn" in service.log()
    report = load(service, 3)
    assert report.failures == {}
    service.wait_log(" drained after ")


def test_the_replacement_serves_before_the_old_worker_drains(service: Service) -> None:
    service.start(workers=1, limit=5, settings={"min_lifetime": 0})
    (old,) = service.living()
    client = service.client()
    for _ in range(5):
        assert client.pid() == old
    service.wait_log(" drained after ")
    log = service.log()
    assert log.index("ready after", log.index("Worker 2 (pid")) < log.index(
        " draining, replaced by "
    )


def test_an_idle_connection_is_kept_for_one_last_request(service: Service) -> None:
    service.start(workers=1, limit=3, settings={"min_lifetime": 0}, timeout_keep_alive=60)
    (old,) = service.living()
    idle, busy, unused = service.client(), service.client(), service.client()
    assert idle.pid() == old
    assert not idle.told_to_close
    for _ in range(3):
        busy.pid()
    service.wait_log("draining, replaced by")
    service.wait(lambda: service.client().pid() != old, "reply of the new worker")
    service.wait(lambda: idle.pid() == old and idle.told_to_close, "announcement")
    assert busy.pid() == old
    assert unused.pid() == old
    service.wait_log(" drained after ")


def test_an_idle_connection_is_closed_at_its_keep_alive_timeout(service: Service) -> None:
    service.start(workers=1, limit=2, settings={"min_lifetime": 0}, timeout_keep_alive=1)
    unused, busy = service.client(), service.client()
    busy.pid()
    busy.pid()
    service.wait_log(" drained after ")
    with pytest.raises((ConnectionError, OSError)):
        unused.pid()


def test_a_reply_that_was_under_way_says_that_it_is_the_last(service: Service) -> None:
    """Its headers were chosen by a list that uvicorn has replaced since."""
    service.start(workers=1, settings={"min_lifetime": 0}, limit=1)
    (old,) = service.living()
    slow = service.client()
    finish = slow.begin("/wait/3")
    assert service.client().pid() == old
    service.wait_log("draining, replaced by")
    assert int(finish().split()[0]) == old
    assert slow.told_to_close


def test_a_stream_runs_to_its_end_on_the_old_worker(service: Service) -> None:
    service.start(workers=1, limit=1, settings={"min_lifetime": 0})
    stream = service.client()
    finish = stream.begin("/stream/30")
    service.client().pid()
    service.wait_log("draining, replaced by")
    assert service.client().get()
    assert finish().endswith("done\n")


def test_the_drain_timeout_ends_a_stream_that_does_not(service: Service) -> None:
    service.start(workers=1, limit=1, settings={"min_lifetime": 0, "drain_timeout": 1})
    finish = service.begin("/stream/600")
    (old,) = service.living()
    service.client().pid()
    service.wait_log(f"(pid {old}) drained after ")
    with pytest.raises(Exception):  # noqa: B017, PT011 - http.client raises one of several
        finish()
    assert service.living()


def most_in_replacement(service: Service, workers: int) -> int:
    """Return how many were being replaced at once, at most."""
    most = retiring = ready = 0
    for line in service.log().splitlines():
        if " retiring: " in line:
            retiring += 1
        elif " ready after " in line:
            ready += 1
            retiring -= ready > workers
        most = max(most, retiring)
    return most


def test_only_one_worker_is_replaced_at_a_time(service: Service) -> None:
    """All four reach their limit at about the same moment."""
    service.start(workers=4, limit=40, settings={"min_lifetime": 0})
    load(service, 2, clients=8)
    service.wait_log(" drained after ", times=3)
    assert most_in_replacement(service, 4) == 1


def test_a_budget_of_two_replaces_two_at_a_time(service: Service) -> None:
    service.start(workers=4, settings={"max_restarting": 2})
    service.signal(signal.SIGHUP)
    service.wait_log(" drained after ", times=4)
    assert most_in_replacement(service, 4) == 2


def test_at_the_cap_a_worker_serves_on_beyond_its_limit(service: Service) -> None:
    """Uvicorn's own limit does not end it meanwhile, and no stream is cut short."""
    service.start(workers=1, limit=5, settings={"min_lifetime": 0, "max_draining": 2})
    for replaced in range(2):
        service.client().begin("/stream/1000000")
        for _ in range(5):
            service.client().pid()
        service.wait_log("draining, replaced by", times=replaced + 1)
    client = service.client()
    beyond = client.pid()
    for _ in range(4 * 5):
        assert client.pid() == beyond
    service.wait_log(f"(pid {beyond}) serves on: as many workers drain as")
    reasons = {worker["pid"]: worker["reason"] for worker in service.status()["workers"]}
    assert reasons[beyond].endswith("; postponed: enough workers drain")
    assert client.pid() == beyond
    assert not client.told_to_close
    os.kill(service.ever_ready()[0], signal.SIGKILL)
    service.wait_log(f"(pid {beyond}) retiring: has answered ")
    assert service.count(" serves on: ") == 1


@pytest.mark.parametrize("start", ["fork", "template"])
def test_a_worker_above_its_memory_limit_is_replaced_and_says_what_grew(
    service: Service, start: str
) -> None:
    service.start(workers=2, recycling={"memory_mb": 300, "jitter": 0}, start=start)
    first = service.living()
    service.client_of(first[0]).get("/hoard/300")
    service.wait_log(f"(pid {first[0]}) holds ")
    service.wait(lambda: first[0] not in service.living(), "end of the large worker")
    assert first[1] in service.wait_living(2)
    assert "--max_worker_memory_mb is too low" in service.log()
    service.wait_log(f"(pid {first[0]}) had grown by 3")
    assert re.search(r" MB in Python objects: list \(\d+ in small_service.HOARD, 30", service.log())
    [told] = service.status()["growth"]
    assert told["worker"].endswith(f"(pid {first[0]})")
    assert told["objects"] <= told["memory"]
    assert told["entries"][0]["bytes"] > 300 * 1024 * 1024


def test_a_worker_is_replaced_at_the_end_of_its_life(service: Service) -> None:
    service.start(workers=2, recycling={"lifetime": 1.0, "jitter": 0.5})
    first = set(service.living())
    service.wait(lambda: not first & set(service.living()), "end of the first workers")
    assert " has served for " in service.log()


def test_the_minimum_lifetime_bounds_recycling(service: Service) -> None:
    service.start(workers=1, limit=1, settings={"min_lifetime": 2})
    began = time.monotonic()
    service.client().pid()
    service.wait_log("will be replaced")
    service.wait_log(" retiring: ")
    assert time.monotonic() - began > 1


def test_tls_connections_are_recycled_as_well(
    service: Service, certificate: dict[str, Any]
) -> None:
    service.start(workers=1, limit=3, settings={"min_lifetime": 0}, **certificate)
    (old,) = service.living()
    idle, busy = service.client(), service.client()
    for _ in range(3):
        busy.pid()
    service.wait_log("draining, replaced by")
    assert idle.pid() == old
    assert idle.told_to_close
    assert service.client().pid() != old


def test_a_websocket_outlives_a_recycle_and_is_told_of_a_stop(service: Service) -> None:
    client = pytest.importorskip("websockets.sync.client")
    closed = pytest.importorskip("websockets.exceptions").ConnectionClosed
    service.start(workers=1, limit=1, settings={"min_lifetime": 0}, ws="websockets")
    with client.connect(f"ws://127.0.0.1:{service.port}/") as socket:
        service.client().pid()
        service.wait_log("draining, replaced by")
        socket.send("still there?")
        assert socket.recv(timeout=10) == "still there?"
        service.signal(signal.SIGTERM)
        with pytest.raises(closed) as caught:
            socket.recv(timeout=10)
        assert caught.value.rcvd.code == 1012
    assert service.wait_exit() == 0


@pytest.mark.parametrize("ws", strict_websocket.PROTOCOLS)
def test_every_websocket_is_accepted_while_workers_are_replaced(service: Service, ws: str) -> None:
    """Authentication takes 0.2 s, so each worker that drains has pending handshakes."""
    strict_websocket.require(ws)
    rolls, workers, clients = 4, 2, 8
    service.start(workers=workers, settings={"min_lifetime": 0}, ws=ws)
    rolled = threading.Event()

    def open_websockets() -> list[str | None]:
        outcomes = []
        while not rolled.is_set():
            outcomes.append(strict_websocket.shake_hands(service.port, "/wait/0.2"))
        return outcomes

    with ThreadPoolExecutor(clients) as pool:
        handshakes = [pool.submit(open_websockets) for _ in range(clients)]
        try:
            for roll in range(1, rolls + 1):
                service.signal(signal.SIGHUP)
                service.wait_log(" drained after ", times=roll * workers)
        finally:
            rolled.set()
    outcomes = [outcome for handshake in handshakes for outcome in handshake.result()]
    assert len(outcomes) > clients * rolls
    assert [outcome for outcome in outcomes if outcome is not None] == []


def test_a_worker_that_serves_only_websockets_reaches_its_limit(service: Service) -> None:
    strict_websocket.require("websockets")
    service.start(workers=1, limit=3, settings={"min_lifetime": 0})
    for _ in range(3):
        assert strict_websocket.shake_hands(service.port) is None
    service.wait_log("draining, replaced by")
