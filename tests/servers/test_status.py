"""What operators see of real workers, without LiteLLM."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from supervised import Service, alive

from litellm_resilience.demo.proxy import free_port
from litellm_resilience.status import channel
from tests.support.watch import Scraper


@pytest.fixture
def observe(service: Service) -> Iterator[Callable[..., Scraper]]:
    """Start the service with metrics, and scrape them until the test ends."""
    pytest.importorskip("prometheus_client")
    with ExitStack() as running:

        def start(**arguments: Any) -> Scraper:
            port = free_port()
            service.start(visibility={"metrics_port": port}, **arguments)
            scraper = running.enter_context(Scraper(f"http://127.0.0.1:{port}/metrics"))
            service.wait(lambda: scraper.looks, "first scrape")
            return scraper

        yield start


def test_counters_never_go_down(service: Service, observe: Callable[..., Scraper]) -> None:
    """Through recycles, a kill and a roll; and no answered request is missing from the count."""
    scraper = observe(workers=3, limit=30, jitter=10)
    answered = 0

    def ask() -> None:
        nonlocal answered
        service.client().get()
        answered += 1

    def recycled(reason: str) -> int:
        count: int = service.status()["totals"]["recycled"][reason]
        return count

    def ask_until_recycled() -> bool:
        ask()
        return recycled("requests") >= 3

    service.wait(ask_until_recycled, "3 recycles")
    counted = "litellm_resilience_requests_total"
    service.wait(lambda: scraper.total(counted) == answered, "count of all requests")
    os.kill(service.wait_settled(3)[0], signal.SIGKILL)
    service.wait(lambda: service.status()["totals"]["died"]["signal"] == 1, "the death")
    before_roll = set(service.wait_settled(3))
    service.signal(signal.SIGHUP)
    service.wait(lambda: not before_roll & set(service.living()), "end of the roll")
    workers = service.wait_settled(3)
    ask()
    service.wait(lambda: scraper.total(counted) == answered, "count of all requests")
    totals = service.status()["totals"]
    assert totals["requests"] == answered
    assert recycled("roll") >= 1
    assert scraper.total("litellm_resilience_worker_boot_seconds_count") == totals["started"]
    drained = totals["started"] - len(workers) - 1
    assert scraper.total("litellm_resilience_worker_drain_seconds_count") == drained
    assert scraper.faults == []


def test_the_table_shows_what_each_worker_does(service: Service) -> None:
    service.start(workers=2, limit=1000, jitter=0)
    first, second = service.living()
    finish = service.client_of(second).begin("/wait/2")

    def of(pid: int) -> dict[str, Any]:
        worker: dict[str, Any] = next(w for w in service.status()["workers"] if w["pid"] == pid)
        return worker

    service.wait(lambda: of(second)["in_flight"] == 1, "request in flight")
    assert of(first)["in_flight"] == 0
    assert of(first)["request_limit"] == 1000
    assert of(first)["memory"] > 10_000_000
    finish()
    service.wait(lambda: of(second)["in_flight"] == 0, "end of the request")


def test_a_blocked_event_loop_shows_while_it_is_blocked(service: Service) -> None:
    service.start(workers=1)
    finish = service.client().begin("/block/3")
    service.wait(lambda: service.status()["workers"][0]["event_loop_lag"] > 1, "lag")
    finish()
    service.wait(lambda: service.status()["workers"][0]["in_flight"] == 0, "end of the request")
    assert service.status()["workers"][0]["event_loop_lag"] > 2, "it is remembered"


def test_a_retiring_worker_says_why(service: Service) -> None:
    service.start(workers=1)
    service.set_mode("slow")
    service.signal(signal.SIGHUP)
    service.wait_log(" retiring: ")
    workers = service.status()["workers"]
    assert [worker["state"] for worker in workers] == ["retiring", "booting"]
    assert workers[0]["reason"] == "started before the SIGHUP"
    assert "retiring: started before the SIGHUP" in service.status()["events"][-2]["event"]


def test_many_clients_that_say_nothing_hold_up_nobody(service: Service) -> None:
    """The socket only writes: there is nothing to say, and nobody is waited for."""
    service.start(workers=1)
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(service.status_socket))
        rude.sendall(b"\x00\xff{]" * 100)
        (first,) = service.living()
        os.kill(first, signal.SIGKILL)
        service.wait(lambda: len(service.ever_ready()) == 2, "replacement")
        assert service.status()["totals"]["died"]["signal"] == 1


def test_the_socket_is_its_owners_alone_and_goes_with_the_supervisor(service: Service) -> None:
    service.start(workers=1)
    assert service.status_socket.stat().st_mode & 0o777 == 0o600
    assert service.status_socket.parent.stat().st_mode & 0o777 == 0o700
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    assert not service.status_socket.exists()
    with pytest.raises(channel.UnavailableError, match="no supervisor runs"):
        service.status()


@pytest.mark.parametrize("start", ["fork", "template", "spawn"])
def test_the_exporter_ends_with_a_supervisor_that_is_killed(
    service: Service, observe: Callable[..., Scraper], start: str
) -> None:
    scraper = observe(workers=1, limit=1000, start=start)
    assert scraper.total("litellm_resilience_workers_started_total") == 1
    workers = service.living()
    service.process.kill()
    service.wait(lambda: "refused" in str(scraper.faults[-1:]), "end of the exporter")
    service.wait(lambda: not [pid for pid in workers if alive(pid)], "end of the workers")
