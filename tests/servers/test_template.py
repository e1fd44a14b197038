"""Workers that are forked from a template, without LiteLLM."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from supervised import Service, alive

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux only")


def template_of(service: Service) -> int:
    """Return the template's process id."""
    pid = service.status()["supervisor"]["template_pid"]
    assert isinstance(pid, int)
    return pid


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def test_every_worker_is_forked_from_the_template(service: Service) -> None:
    """The method and the reason are in the log and in the status."""
    service.start(workers=2, start="template")
    assert "Supervising 2 workers, forked from a template: asked for a template" in service.log()
    told = service.status()["supervisor"]
    assert (told["start_method"], told["start_obstacle"]) == ("template", "asked for a template")
    assert {parent_of(pid) for pid in service.living()} == {template_of(service)}


def test_a_worker_is_given_its_own_before_it_serves(service: Service) -> None:
    service.start(workers=2, start="template")
    first, second = service.living()
    owned = {service.client_of(pid).get("/owned").split()[1] for pid in (first, second)}
    assert owned == {"0", "1"}


def test_requests_in_flight_survive_a_roll(service: Service) -> None:
    service.start(workers=2, start="template")
    first = service.living()
    finish = service.begin("/stream/20")
    service.signal(signal.SIGHUP)
    assert finish().endswith("done\n")
    service.wait(lambda: not set(first) & set(service.living()), "end of the first workers")
    assert {parent_of(pid) for pid in service.wait_settled(2)} == {template_of(service)}


def test_how_a_worker_died_is_known(service: Service) -> None:
    service.start(workers=1, start="template")
    (first,) = service.living()
    with pytest.raises(ConnectionError):
        service.client().get("/exit/7")
    service.wait_log(f"(pid {first}) died: exited with status 7; replacing it")
    (second,) = service.wait_settled(1)
    os.kill(second, signal.SIGKILL)
    service.wait_log(f"(pid {second}) died: killed by SIGKILL, likely out of memory")
    service.wait_settled(1)


def test_workers_outlive_their_template_and_the_next_one_replaces_them(service: Service) -> None:
    service.start(workers=2, start="template")
    before, template = service.living(), template_of(service)
    client = service.client_of(before[0])
    os.kill(template, signal.SIGKILL)
    service.wait(lambda: not alive(template), "end of the template")
    assert client.pid() == before[0]
    service.signal(signal.SIGHUP)
    service.wait(lambda: not set(before) & set(service.living()), "end of the first workers")
    after = service.wait_settled(2)
    assert template_of(service) != template
    assert {parent_of(pid) for pid in after} == {template_of(service)}


def test_a_death_without_a_template_is_noticed(service: Service) -> None:
    service.start(workers=2, start="template")
    first, _ = service.living()
    os.kill(template_of(service), signal.SIGKILL)
    os.kill(first, signal.SIGKILL)
    service.wait_log(f"(pid {first}) died: killed by SIGKILL")
    service.wait_settled(2)


def test_workers_wait_for_a_template_that_is_loaded_again_but_have_not_failed(
    service: Service,
) -> None:
    service.start(workers=2, start="template")
    for pid in [template_of(service), *service.living()]:
        os.kill(pid, signal.SIGKILL)
    service.wait_log("died: killed by SIGKILL", times=2)
    after = service.wait_settled(2)
    assert {parent_of(pid) for pid in after} == {template_of(service)}
    assert service.count("The template has ended and is loaded again") == 1
    assert "could not be started" not in service.log()


def test_nothing_is_left_when_the_service_stops(service: Service) -> None:
    service.start(workers=2, start="template")
    processes = [template_of(service), *service.living()]
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    service.wait(lambda: not any(alive(pid) for pid in processes), "end of all processes")
    assert "died" not in service.log()


def test_nothing_is_left_when_the_supervisor_is_killed(service: Service) -> None:
    service.start(workers=2, start="template")
    processes = [template_of(service), *service.living()]
    os.kill(service.process.pid, signal.SIGKILL)
    service.wait(lambda: not any(alive(pid) for pid in processes), "end of all processes")


def test_workers_are_spawned_where_the_template_is_unfit_too(service: Service) -> None:
    service.set_mode("unfit template")
    service.start(workers=1, start="template")
    reason = "asked for a template, and in the template it is unfit on purpose"
    assert f"Supervising 1 worker, spawned: {reason}" in service.log()
    assert service.client().pid() == service.living()[0]


def test_a_stop_while_a_worker_boots_leaves_nothing(service: Service) -> None:
    service.set_mode("slow")
    service.start(workers=1, start="template", ready=0)
    service.wait_log("Worker 1")
    service.wait(service.ever_started, "start of a worker")
    (booting,) = service.ever_started()
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    service.wait(lambda: not alive(booting), "end of the worker")
