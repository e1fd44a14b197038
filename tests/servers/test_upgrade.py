"""Upgrades in place of real supervisors, without LiteLLM."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from pathlib import Path

import pytest
from supervised import HERE, Service, alive, asked

from litellm_resilience.demo.proxy import free_port
from litellm_resilience.status.channel import UnavailableError, ask

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def scrape(port: int) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            found: bytes = reply.read()
            return found
    except OSError:
        return b""


def supervisor_of(service: Service) -> int:
    """Return which process answers the status, 0 while none does."""
    try:
        return int(service.status()["supervisor"]["pid"])
    except UnavailableError:
        return 0


def begin_upgrade(service: Service) -> None:
    """Start one worker, and upgrade to a proxy that is not ready for long."""
    service.start(workers=1)
    service.set_mode("slow")
    service.signal(signal.SIGUSR2)
    service.wait_log(" started", times=3)


def wait_gone(service: Service) -> None:
    """Wait until neither a new proxy nor any worker lives."""
    service.wait(lambda: not any(map(alive, service.new_proxies())), "end of the new proxy")
    service.wait(lambda: not any(map(alive, service.ever_started())), "end of all workers")


def upgrade(service: Service, program: Path | None = None) -> int:
    """Upgrade, wait until only the new workers live, and return the new supervisor's pid."""
    old = service.living()
    before = len(service.new_proxies())
    if program is None:
        service.signal(signal.SIGUSR2)
    else:
        assert "started" in ask(service.status_socket, ["upgrade", str(program)])["done"]
    service.wait(lambda: len(service.new_proxies()) > before, "new proxy")
    new = service.new_proxies()[-1]
    service.wait(lambda: supervisor_of(service) == new, "status of the new proxy")
    service.wait(lambda: not any(map(alive, old)), "end of the old workers")
    return new


def environment_with_the_service(folder: Path) -> Path:
    """Return a folder like a virtual environment whose command is the small service."""
    program = folder / "venv" / "bin" / "litellm-resilient"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE}/small_service.py "$@"\n')
    program.chmod(0o755)
    return folder / "venv"


def test_an_upgrade_keeps_the_process_and_loses_no_request(
    service: Service, tmp_path: Path
) -> None:
    """Twice, so that a proxy that took over also gives way; no process is left between."""
    service.start(workers=2)
    with asked(service):
        service.set_mode("new")
        first = upgrade(service)
        second = upgrade(service, environment_with_the_service(tmp_path))
        service.wait(lambda: not alive(first), "end of the proxy in between")
    assert service.client().get().endswith(" new")
    service.wait(lambda: "waiting.py" in command_line(service.process.pid), "small program")
    assert len(service.living()) == 2
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    service.wait(lambda: not alive(second), "end of the new proxy")
    assert service.living() == []


def test_a_new_proxy_that_is_never_ready_leaves_the_old_one_serving(service: Service) -> None:
    """Whatever it fails at; when the fault is gone, the next upgrade works."""
    service.start(workers=1)
    (worker,) = service.living()
    failures = {"no command": "exited with status 7", "broken": "exited with status 3"}
    for number, (mode, why) in enumerate(failures.items(), 1):
        service.set_mode(mode)
        service.signal(signal.SIGUSR2)
        service.wait_log("The upgrade has failed", number)
        new = service.new_proxies()[-1]
        assert f"failed: process {new} {why}. The workers here serve on" in service.log()
        assert not alive(new)
        assert service.client().pid() == worker
        assert supervisor_of(service) == service.process.pid
    service.set_mode("")
    upgrade(service)


def test_who_stops_the_first_process_stops_a_new_proxy_that_is_not_ready(service: Service) -> None:
    begin_upgrade(service)
    service.signal(signal.SIGUSR2)
    service.wait_log("no upgrade: there is one already")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    wait_gone(service)


def test_a_killed_first_process_takes_a_new_proxy_that_is_not_ready_with_it(
    service: Service,
) -> None:
    begin_upgrade(service)
    service.signal(signal.SIGKILL)
    wait_gone(service)


def test_a_killed_new_proxy_is_a_failed_upgrade_before_and_the_end_after_it_is_ready(
    service: Service,
) -> None:
    begin_upgrade(service)
    os.kill(service.new_proxies()[0], signal.SIGKILL)
    service.wait_log("failed: process")
    service.wait(lambda: not alive(service.ever_started()[-1]), "end of the new worker")
    service.set_mode("")
    new = upgrade(service)
    os.kill(new, signal.SIGKILL)
    assert service.wait_exit() == 128 + signal.SIGKILL
    service.wait(lambda: not service.living(), "end of the workers, as when no upgrade was")


@pytest.mark.parametrize("before", [0, 1])
def test_a_new_proxy_that_dies_while_old_requests_go_on_ends_all(
    service: Service, before: int
) -> None:
    """Whoever watches the first process can start it again; nobody would serve until then.

    The first process knows how the last one has ended, also if another one had started that.
    """
    service.start(workers=1, timeout_graceful_shutdown=1)
    for _ in range(before):
        upgrade(service)
    service.begin("/stream/600")
    service.signal(signal.SIGUSR2)
    service.wait(lambda: len(service.new_proxies()) > before, "new proxy")
    new = service.new_proxies()[-1]
    service.wait(lambda: supervisor_of(service) == new, "status of the new proxy")
    os.kill(new, signal.SIGKILL)
    assert service.wait_exit() == 128 + signal.SIGKILL
    assert service.count(f"serves no more: process {new} killed by SIGKILL") == 1
    service.wait(lambda: not service.living(), "end of all workers")


def test_a_new_proxy_that_dies_before_it_takes_over_cuts_no_request(service: Service) -> None:
    """One of its workers serves already, from the sockets that all share."""
    service.start(workers=2)
    service.set_mode("one-slow")
    service.signal(signal.SIGUSR2)
    service.wait(lambda: len(service.ever_ready()) == 3, "one worker of the new proxy")
    worker = service.ever_ready()[-1]
    finish = service.client_of(worker).begin("/stream/20")
    os.kill(service.new_proxies()[0], signal.SIGKILL)
    service.wait_log("failed: process")
    assert finish().endswith("done\n")
    service.wait(lambda: not alive(worker), "end of the new worker")
    upgrade(service)


def test_signals_to_the_first_process_reach_the_new_proxy_while_old_requests_go_on(
    service: Service,
) -> None:
    """With metrics, whose port the old proxy gives up, and workers forked from a template."""
    pytest.importorskip("prometheus_client")
    port = free_port()
    service.start(workers=1, start="template", visibility={"metrics_port": port})
    (old,) = service.living()
    finish = service.begin("/stream/30")
    service.signal(signal.SIGUSR2)
    service.wait_log("takes over")
    (new,) = service.new_proxies()
    service.wait(lambda: supervisor_of(service) == new, "status of the new proxy")
    service.signal(signal.SIGHUP)
    service.wait(lambda: len(service.ever_ready()) == 3, "worker of the new proxy replaced")
    assert alive(old)
    assert finish().endswith("done\n")
    service.wait(lambda: "waiting.py" in command_line(service.process.pid), "small program")
    service.wait(lambda: b"litellm_resilience_workers" in scrape(port), "metrics of the new proxy")
    assert service.count("The metrics exporter") == 0
    service.signal(signal.SIGKILL)
    service.wait(lambda: not any(map(alive, service.new_proxies())), "end of the new proxy")
