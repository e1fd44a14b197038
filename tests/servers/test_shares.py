"""Connections are spread over the workers by share, without LiteLLM."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from supervised import Client, Service

CONNECTIONS = 32
DESCRIPTOR = 9
WITH_DESCRIPTOR = f"""
import json, os, socket, sys
listener = socket.create_server(("127.0.0.1", json.loads(sys.argv[-1])["uvicorn"]["port"]))
os.dup2(listener.fileno(), {DESCRIPTOR}, inheritable=True)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Starts a program that finds its listening socket at `DESCRIPTOR`."""


def shares(clients: Sequence[Client]) -> Counter[int]:
    """Return how many of the connections each worker has."""
    return Counter(client.pid() for client in clients)


def assert_even(clients: Sequence[Client], workers: int) -> None:
    """Where each worker takes all that waits, one has most connections and another none."""
    assert_even_shares(shares(clients), workers)


def assert_even_shares(found: Counter[int], workers: int) -> None:
    assert len(found) == workers, found
    assert max(found.values()) <= 1.5 * found.total() / workers, found


def pids_over(connections: Sequence[socket.socket]) -> Counter[int]:
    """Return how many of these connections each worker has."""
    pids = Counter[int]()
    for each in connections:
        client = http.client.HTTPConnection("service")
        client.sock = each
        client.request("GET", "/")
        pids[int(client.getresponse().read().split()[0])] += 1
    return pids


def pid_of_one_request(service: Service) -> int:
    """Return which worker gets a connection that ends after one request, once it has ended."""
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: service\r\nconnection: close\r\n\r\n")
        reply = b"".join(iter(lambda: connection.recv(4096), b""))
    service.wait(lambda: not any(w["in_flight"] for w in service.status()["workers"]), "idle")
    return int(reply.partition(b"\r\n\r\n")[2].split()[0])


@pytest.mark.parametrize(
    ("loop", "start", "workers"),
    [
        ("asyncio", "fork", 4),
        ("uvloop", "fork", 4),
        ("asyncio", "spawn", 2),
        ("asyncio", "template", 2),
    ],
)
def test_each_worker_takes_its_share(service: Service, loop: str, start: str, workers: int) -> None:
    pytest.importorskip(loop)
    service.start(workers=workers, loop=loop, start=start)
    at_once = [service.client() for _ in range(CONNECTIONS)]
    assert_even(at_once, workers)
    for client in at_once:
        client.close()
    one_by_one = []
    for _ in range(CONNECTIONS):
        one_by_one.append(service.client())
        one_by_one[-1].pid()
    assert_even(one_by_one, workers)


def test_clients_that_never_keep_a_connection_are_shared(service: Service) -> None:
    """One after the other: no worker has anything to do whenever one comes."""
    service.start(workers=3)
    assert_even_shares(Counter(pid_of_one_request(service) for _ in range(CONNECTIONS)), 3)


def test_new_workers_take_their_share_after_a_roll(service: Service) -> None:
    service.start(workers=4, timeout_keep_alive=60)
    before = [service.client() for _ in range(CONNECTIONS)]
    shares(before)
    service.signal(signal.SIGHUP)
    service.wait_log("draining, replaced by", times=4)
    shares(before)
    assert all(client.told_to_close for client in before)
    assert_even([service.client() for _ in before], 4)


def test_a_blocked_worker_takes_nothing_and_gets_its_share_later(service: Service) -> None:
    """Clients that keep their connections to the other one are told to come back."""
    service.start(workers=2)
    blocked, other = service.living()
    finish = service.client_of(blocked).begin("/block/3")
    service.wait(
        lambda: any(
            w["event_loop_lag"] for w in service.status()["workers"] if w["pid"] == blocked
        ),
        "blocked worker",
    )
    clients = [service.client() for _ in range(CONNECTIONS)]
    assert shares(clients) == {other: CONNECTIONS}
    assert int(finish().split()[0]) == blocked

    def even() -> bool:
        for reply in [client.begin("/wait/0.3") for client in clients]:
            reply()
        clients[:] = [service.client() if each.told_to_close else each for each in clients]
        return max(shares(clients).values()) <= 0.6 * CONNECTIONS

    service.wait(even, "even load")


def test_connections_are_shared_before_their_tls_handshake(
    service: Service, certificate: dict[str, Any]
) -> None:
    service.start(workers=3, **certificate)
    context = service.context
    assert context is not None
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            for _ in range(CONNECTIONS)
        ]
        with_tls = [
            stack.enter_context(context.wrap_socket(each, server_hostname="127.0.0.1"))
            for each in opened
        ]
        assert_even_shares(pids_over(with_tls), 3)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_listening_socket_that_was_handed_down_is_shared(service: Service, loop: str) -> None:
    pytest.importorskip(loop)
    wrapper = [sys.executable, "-c", WITH_DESCRIPTOR]
    service.start(workers=3, loop=loop, fd=DESCRIPTOR, wrapper=wrapper)
    assert_even([service.client() for _ in range(CONNECTIONS)], 3)


def test_workers_take_their_share_while_the_supervisor_stands_still(service: Service) -> None:
    service.start(workers=3)
    service.signal(signal.SIGSTOP)
    assert_even([service.client() for _ in range(CONNECTIONS)], 3)


def test_a_unix_socket_is_shared(service: Service, tmp_path: Path) -> None:
    path = str(tmp_path / "service")
    service.start(workers=2, uds=path)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(8)]
        for each in connections:
            each.connect(path)
        assert len(pids_over(connections)) == 2
