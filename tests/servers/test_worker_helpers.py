"""What workers have started ends with them, however they end, and nothing else does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from supervised import Service, alive, wait_for

# Processes, not uvicorn: `fresh` runs them.
pytestmark = pytest.mark.any_line

KINDS = ["child", "session", "orphan", "bare", "forked", "stubborn"]


def gone(service: Service, *helpers: int) -> None:
    """Wait for the end of processes, and for them to be reaped as well."""
    for helper in helpers:
        service.wait(lambda: not Path(f"/proc/{helper}").exists(), f"end of {helper}")  # noqa: B023


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_worker_takes_what_it_has_started_with_it(
    service: Service, kind: str, workers: int
) -> None:
    service.start(workers=workers)
    first, *others = service.living()
    spared = [service.start_helper(other, kind) for other in others]
    helper = service.start_helper(first, kind)
    os.kill(first, signal.SIGKILL)
    gone(service, helper)
    assert re.search(rf"\(pid {first}\) left [^ ]+ \(pid {helper}\): ended it", service.log())
    assert all(alive(pid) for pid in spared)


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_is_told_to_end_takes_them_with_it(service: Service, kind: str) -> None:
    service.start(workers=2)
    first, second = service.living()
    helpers = [service.start_helper(worker, kind) for worker in (first, second)]
    os.kill(first, signal.SIGTERM)
    service.wait(lambda: len(service.ever_ready()) == 3, "replacement")
    gone(service, helpers[0])
    assert alive(helpers[1])
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    assert not alive(helpers[1])


@pytest.mark.parametrize("start", ["fork", "template", "spawn"])
def test_a_recycled_worker_takes_them_with_it(service: Service, start: str) -> None:
    service.start(workers=1, start=start)
    (first,) = service.living()
    helper = service.start_helper(first, "child")
    service.signal(signal.SIGHUP)
    service.wait_log(" drained after")
    assert not alive(helper)
    assert "ended it" not in service.log()


@pytest.mark.parametrize("kind", KINDS)
def test_a_replacement_that_fails_takes_them_with_it(service: Service, kind: str) -> None:
    service.start(workers=1)
    service.set_mode(f"broken {kind}")
    service.signal(signal.SIGHUP)
    service.wait_log("could not start: exited with status 3", times=2)
    service.set_mode("")
    service.wait(lambda: len(service.ever_ready()) == 2, "replacement")
    assert len(service.helpers()) >= 2
    gone(service, *service.helpers())


@pytest.mark.parametrize("mode", ["slow", "block"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_replacement_that_is_never_ready_takes_them_with_it(
    service: Service, kind: str, mode: str
) -> None:
    service.start(workers=1, settings={"boot_timeout": 1})
    service.set_mode(f"{mode} {kind}")
    service.signal(signal.SIGHUP)
    service.wait_log("it was not ready within 1 s; next attempt", times=2)
    service.set_mode("")
    service.wait(lambda: len(service.ever_ready()) == 2, "replacement")
    gone(service, *service.helpers())


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("mode", ["slow", "block"])
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT] * 2])
def test_a_stop_while_workers_boot_leaves_nothing(
    service: Service, workers: int, mode: str, signals: list[int]
) -> None:
    service.set_mode(f"{mode} session")
    service.start(workers=workers, ready=0)
    service.wait(lambda: len(service.helpers()) == workers, "helpers")
    for times, number in enumerate(signals):
        service.signal(number)
        service.wait_log("stopping", times=times + 1)
    service.wait_exit()
    assert not [pid for pid in service.helpers() if alive(pid)]


def test_a_second_interrupt_ends_what_serving_workers_have_started(service: Service) -> None:
    service.start(workers=2)
    helpers = [service.start_helper(worker, "stubborn") for worker in service.living()]
    service.begin("/stream/600")
    for times in (1, 2):
        service.signal(signal.SIGINT)
        service.wait_log("stopping", times)
    service.wait_exit()
    assert not [pid for pid in helpers if alive(pid)]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_workers_whose_supervisor_is_killed_take_them_with_them(
    service: Service, kind: str, workers: int
) -> None:
    service.start(workers=workers)
    for worker in service.living():
        service.start_helper(worker, kind)
    service.process.kill()
    service.wait(lambda: not [pid for pid in service.helpers() if alive(pid)], "end of helpers")
    service.wait(lambda: service.living() == [], "end of the workers")


@pytest.mark.parametrize("mode", ["slow", "block"])
@pytest.mark.parametrize("start", ["fork", "template", "spawn"])
def test_booting_workers_whose_supervisor_is_killed_take_them_with_them(
    service: Service, mode: str, start: str
) -> None:
    service.set_mode(f"{mode} session")
    service.start(workers=1, ready=0, start=start)
    service.wait(lambda: len(service.helpers()) == 1, "helper")
    service.process.kill()
    service.wait(lambda: not alive(service.helpers()[0]), "end of the helper")
    service.wait(lambda: not alive(service.ever_started()[0]), "end of the worker")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["child", "session", "orphan"])
def test_a_helper_that_is_named_outlives_its_worker(
    service: Service, kind: str, end: signal.Signals
) -> None:
    service.start(workers=1, keep_helpers=["sleep"])
    (first,) = service.living()
    helper = service.start_helper(first, kind)
    other = service.start_helper(first, "forked")
    os.kill(first, end)
    gone(service, other)
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    assert alive(helper)


def test_what_the_command_had_started_before_is_left_alone(service: Service) -> None:
    """Also what comes to the supervisor as an orphan of that."""
    service.set_mode("")
    service.start(workers=1, before=_start_sidecar(service))
    (first,) = service.living()
    helper = service.start_helper(first, "child")
    os.kill(first, signal.SIGKILL)
    gone(service, helper)
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    sidecar = service.helpers()[0]
    assert alive(sidecar)


def _start_sidecar(service: Service) -> Callable[[], object]:
    return lambda: service.note_helper(subprocess.Popen(["sleep", "600"]).pid)


def test_dead_orphans_of_a_living_worker_are_reaped(service: Service) -> None:
    service.start(workers=1)
    (worker,) = service.living()
    for kind in ("orphan", "forked"):
        helper = service.start_helper(worker, kind)
        os.kill(helper, signal.SIGTERM)
    orphan, child = service.helpers()
    gone(service, orphan)
    assert Path(f"/proc/{child}").exists(), "only its parent may ask for it"
    assert service.living() == [worker]


def test_a_service_whose_parent_ignores_sigchld_ends_as_ever(service: Service) -> None:
    service.start(workers=2, before=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    first, _ = service.living()
    os.kill(first, signal.SIGKILL)
    service.wait_log("died: killed by SIGKILL")
    service.wait(lambda: len(service.ever_ready()) == 3, "replacement")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0


def test_ps_tells_supervisor_and_workers_apart(service: Service) -> None:
    service.start(workers=2)

    def names() -> list[str]:
        pids = [service.process.pid, *service.living()]
        return sorted(Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids)

    wait_for(lambda: names() == ["litellm-super", "litellm-w1", "litellm-w2"], "names")
