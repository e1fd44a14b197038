"""Deaths, hangs, signals and failed starts of real workers, without LiteLLM."""

from __future__ import annotations

import os
import signal
import socket

import pytest
from supervised import Service, alive, asked

from litellm_resilience.supervisor.restarts import IMMEDIATE_RESTARTS


def test_a_killed_worker_is_replaced_and_the_other_serves_on(service: Service) -> None:
    service.start(workers=2)
    first, second = service.living()
    client = service.client_of(second)
    os.kill(first, signal.SIGKILL)
    assert client.pid() == second
    service.wait(lambda: len(service.ever_ready()) == 3, "replacement")
    assert f"(pid {first}) died: killed by SIGKILL, likely out of memory" in service.log()
    assert second in service.living()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_finds_uvicorns_own_classes(workers: int, service: Service) -> None:
    """As sse-starlette does, which LiteLLM may import when a worker starts."""
    service.start(workers=workers)
    assert service.client().get("/classes").split()[1:] == ["Server", "Multiprocess"]


def test_connections_wait_while_the_only_worker_is_replaced(service: Service) -> None:
    service.start(workers=1)
    (first,) = service.living()
    os.kill(first, signal.SIGKILL)
    assert service.client().pid() != first


def test_a_worker_that_exits_is_replaced_with_its_status_in_the_log(service: Service) -> None:
    service.start(workers=1)
    (first,) = service.living()
    with pytest.raises(ConnectionError):
        service.client().get("/exit/7")
    assert service.client().pid() != first
    assert f"(pid {first}) died: exited with status 7; replacing it" in service.log()


def test_workers_that_keep_dying_are_replaced_less_and_less_often(service: Service) -> None:
    service.start(workers=1)
    for _ in range(IMMEDIATE_RESTARTS + 2):
        with pytest.raises(ConnectionError):
            service.client().get("/exit/1")
    service.wait_log("workers keep dying, next start in 1 s")
    service.wait_log("workers keep dying, next start in 2 s")


def test_a_worker_whose_loop_is_blocked_is_replaced(service: Service) -> None:
    """Its stack, which shows where, is in the log; a worker that is merely busy is spared."""
    service.start(workers=2, settings={"hang_timeout": 2})
    first, second = service.living()
    finish = service.client_of(second).begin("/wait/4")
    service.client_of(first).begin("/block/60")
    service.wait(lambda: not alive(first), "end of the blocked worker")
    assert "small_service.py" in service.log()
    assert int(finish().split()[0]) == second
    service.wait_living(2)
    assert "died: killed because its event loop has not turned for 2 s" in service.log()


def test_hangup_replaces_all_workers_one_after_the_other(service: Service) -> None:
    service.start(workers=2)
    first = set(service.living())
    with asked(service) as replies:
        service.set_mode("changed")
        service.signal(signal.SIGHUP)
        service.wait(lambda: not first & set(service.living()), "end of the first workers")
    assert len(replies) > 10
    assert len(service.living()) == 2
    assert service.client().get().endswith(" changed")


def test_ten_hangups_at_once_are_one_roll(service: Service) -> None:
    service.start(workers=2)
    first = set(service.living())
    for _ in range(10):
        service.signal(signal.SIGHUP)
    service.wait(lambda: not first & set(service.living()), "end of the first workers")
    service.wait_living(2)
    assert len(service.ever_ready()) <= 6


def test_a_roll_that_cannot_start_workers_leaves_the_old_ones_serving(service: Service) -> None:
    service.start(workers=2)
    first = set(service.living())
    service.set_mode("broken")
    service.signal(signal.SIGHUP)
    service.wait_log("could not start: exited with status 3", times=2)
    assert set(service.living()) == first
    assert service.client().pid() in first
    service.set_mode("")
    service.wait(lambda: not first & set(service.living()), "end of the first workers")
    service.wait_living(2)


def test_a_replacement_that_is_never_ready_is_given_up(service: Service) -> None:
    service.start(workers=1, settings={"boot_timeout": 1})
    (first,) = service.living()
    service.set_mode("slow")
    service.signal(signal.SIGHUP)
    service.wait_log("it was not ready within 1 s; next attempt", times=2)
    assert service.client().pid() == first
    service.set_mode("")
    service.wait(lambda: first not in service.living(), "end of the first worker")


def test_more_and_fewer_workers_on_request(service: Service) -> None:
    service.start(workers=2)
    service.signal(signal.SIGTTIN)
    service.wait_living(3)
    service.signal(signal.SIGTTOU)
    service.wait_living(2)
    service.signal(signal.SIGTTOU)
    service.wait_living(1)
    service.signal(signal.SIGTTOU)
    service.wait_log("SIGTTOU: 1 worker from now on", times=2)
    assert service.client().pid()
    assert len(service.living()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_is_in_flight_and_leaves_nothing(service: Service, number: int) -> None:
    service.start(workers=2, timeout_keep_alive=60)
    workers = service.living()
    idle = service.client()
    finish = service.begin("/wait/2")
    service.signal(number)
    assert int(finish().split()[0]) in workers
    assert service.wait_exit() == 0
    assert not [pid for pid in workers if alive(pid)]
    idle.close()


def test_a_stop_refuses_new_connections(service: Service) -> None:
    """While a reply is still under way: load balancers learn at once to go elsewhere."""
    service.start(workers=2)
    finish = service.begin("/wait/3")
    service.signal(signal.SIGTERM)
    service.wait(service.refuses, "refusal")
    assert service.process.poll() is None, "it is refused while something is under way"
    assert finish()
    assert service.wait_exit() == 0


@pytest.mark.parametrize(
    ("moment", "times"), [(" retiring: ", 1), ("Waiting for application startup.", 3)]
)
def test_a_stop_in_the_middle_of_a_roll(service: Service, moment: str, times: int) -> None:
    """Also when the replacement's application is starting, and never would have started."""
    service.start(workers=2)
    service.set_mode("slow")
    service.signal(signal.SIGHUP)
    service.wait_log(moment, times)
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    assert service.living() == []


def test_a_second_interrupt_ends_at_once(service: Service) -> None:
    service.start(workers=1)
    (worker,) = service.living()
    service.begin("/stream/600")
    service.signal(signal.SIGINT)
    service.wait_log("SIGINT: stopping")
    service.signal(signal.SIGINT)
    service.wait_exit()
    assert not alive(worker)


def test_a_stop_keeps_to_uvicorns_graceful_timeout(service: Service) -> None:
    service.start(workers=1, timeout_graceful_shutdown=1)
    service.begin("/stream/600")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0


def test_workers_end_when_the_supervisor_is_killed(service: Service) -> None:
    service.start(workers=3)
    workers = service.living()
    service.process.kill()
    service.wait(lambda: not [pid for pid in workers if alive(pid)], "end of the workers")


def test_a_worker_that_never_starts_ends_when_the_supervisor_is_killed(service: Service) -> None:
    service.set_mode("slow")
    service.start(workers=1, ready=0)
    service.wait_log("Waiting for application startup.")
    (worker,) = service.ever_started()
    service.process.kill()
    service.wait(lambda: not alive(worker), "end of the worker")


def test_a_worker_that_is_asked_to_end_is_replaced(service: Service) -> None:
    """Somebody sends SIGTERM to a worker instead of the supervisor."""
    service.start(workers=1)
    (first,) = service.living()
    finish = service.begin("/wait/2")
    os.kill(first, signal.SIGTERM)
    assert int(finish().split()[0]) == first
    assert service.client().pid() != first


@pytest.mark.parametrize("workers", [1, 3])
def test_a_first_generation_that_cannot_start_ends_the_service(
    service: Service, workers: int
) -> None:
    service.set_mode("broken")
    service.start(workers=workers, ready=0)
    assert service.wait_exit() == 3
    assert "No worker could start" in service.log()
    assert "broken on purpose" in service.log()


def test_a_port_that_is_taken_ends_the_service(service: Service) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service.start(workers=2, ready=0, port=taken.getsockname()[1])
        assert service.wait_exit() in {1, 3}


def test_clients_hang_on_to_no_worker(service: Service) -> None:
    """A worker that retires while a client is half through its headers still answers."""
    service.start(workers=1, limit=1, settings={"min_lifetime": 0}, timeout_keep_alive=1)
    (old,) = service.living()
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        service.client().pid()
        service.wait_log("draining, replaced by")
        service.wait(lambda: service.client().pid() != old, "reply of the new worker")
        slow.sendall(b"\r\n")
        reply = b"".join(iter(lambda: slow.recv(65536), b""))
    assert b"200 OK" in reply
    assert str(old).encode() in reply
    assert b"connection: close" in reply


@pytest.mark.parametrize("start", ["fork", "template", "spawn"])
def test_a_worker_runs_its_exit_hooks_once_however_it_is_asked_to_end(
    service: Service, start: str
) -> None:
    service.start(workers=2, start=start)
    first, second = service.living()
    os.kill(first, signal.SIGTERM)
    service.wait(lambda: service.ended() == [first], "exit hook after SIGTERM to a worker")
    service.wait(lambda: len(service.ever_ready()) == 3, "replacement")
    service.signal(signal.SIGHUP)
    service.wait(lambda: len(service.ended()) == 3, "exit hooks of replaced workers")
    service.wait(lambda: len(service.ever_ready()) == 5, "workers after the SIGHUP")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    assert second in service.ended()
    assert sorted(service.ended()) == sorted(service.ever_ready())
