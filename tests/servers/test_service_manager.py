"""What a service manager is told and gives, by systemd's protocols."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervised import DEADLINE, Client, Service, alive

from litellm_resilience.demo.proxy import free_port
from litellm_resilience.supervisor.service_manager import VARIABLES

ACTIVATE = shutil.which("systemd-socket-activate")
BY_HAND = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""
pytestmark = [
    pytest.mark.any_line,
    pytest.mark.skipif(sys.platform != "linux", reason="there is no systemd"),
]


class Manager:
    """The end of NOTIFY_SOCKET that belongs to a service manager.

    Args:
        address: abstract if it begins with "@".
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(DEADLINE)

    def hear(self, wanted: str) -> str:
        """Return the next message that begins so; all are noted."""
        while True:
            self.heard.append(self._socket.recv(4096).decode())
            if self.heard[-1].startswith(wanted):
                return self.heard[-1]

    def catch_up(self) -> list[str]:
        """Return all messages that have come since the last one that was heard."""
        found = []
        self._socket.setblocking(False)
        try:
            while True:
                found.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            self._socket.settimeout(DEADLINE)
            return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"lr{os.getpid()}"
    its = Manager(f"@{name}" if request.param == "abstract" else f"/tmp/{name}")
    yield its
    its.close()
    Path(its.address).unlink(missing_ok=True)


def test_a_manager_is_told_of_start_reload_and_stop(service: Service, manager: Manager) -> None:
    service.start(workers=2, environment={"NOTIFY_SOCKET": manager.address})
    manager.hear("READY=1")
    assert "STATUS=0 of 2 workers serve" in manager.heard
    manager.hear("STATUS=2 of 2 workers serve")
    asked = time.monotonic_ns() // 1000
    service.signal(signal.SIGHUP)
    stamp = manager.hear("RELOADING=1\n").partition("MONOTONIC_USEC=")[2]
    assert asked < int(stamp) <= time.monotonic_ns() // 1000
    manager.heard.clear()
    manager.hear("READY=1")
    assert any(message.endswith(" workers serve, rolling") for message in manager.heard)
    assert len(service.ever_ready()) == 4
    service.signal(signal.SIGTERM)
    manager.hear("STOPPING=1")
    assert service.wait_exit() == 0


def test_one_worker_without_a_limit_is_supervised_and_inherits_nothing(
    service: Service, manager: Manager
) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "60000000"}
    service.start(workers=1, environment=environment)
    manager.hear("READY=1")
    manager.hear("WATCHDOG=1")
    (worker,) = service.living()
    helper = service.start_helper(worker, "child")
    inherited = Path(f"/proc/{helper}/environ").read_text()
    assert "PATH=" in inherited
    assert not [name for name in VARIABLES if f"{name}=" in inherited]


def test_the_watchdog_is_fed_while_a_worker_serves(service: Service) -> None:
    manager = Manager(f"@lr{os.getpid()}")
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "300000"}
    service.start(workers=1, environment=environment)
    for _ in range(3):
        manager.hear("WATCHDOG=1")
    service.set_mode("broken")
    os.kill(service.living()[0], signal.SIGKILL)
    service.wait_log("died: killed by SIGKILL")
    manager.hear("STATUS=0 of 1 workers serve")
    service.wait_log("could not start")
    assert "WATCHDOG=1" not in manager.catch_up()
    service.set_mode("")
    manager.hear("WATCHDOG=1")
    manager.close()


def test_an_upgrade_is_no_stop(service: Service) -> None:
    """The new proxy speaks for the service as soon as it has taken over."""
    manager = Manager(f"@lr{os.getpid()}")
    service.start(workers=1, environment={"NOTIFY_SOCKET": manager.address})
    manager.hear("READY=1")
    (old,) = service.living()
    service.signal(signal.SIGUSR2)
    manager.hear("READY=1")
    service.wait(lambda: not alive(old), "end of the old worker")
    assert "STOPPING=1" not in [*manager.heard, *manager.catch_up()]
    service.signal(signal.SIGTERM)
    manager.hear("STOPPING=1")
    assert service.wait_exit() == 0
    manager.close()


@pytest.mark.parametrize("how", ["by hand", "systemd-socket-activate"])
def test_workers_serve_on_a_socket_that_is_passed(service: Service, how: str) -> None:
    """And on no other."""
    port = free_port()
    wrapper = [sys.executable, "-c", BY_HAND, str(port)]
    if how != "by hand":
        if ACTIVATE is None:
            pytest.skip("there is no systemd-socket-activate")
        kept = [f"--setenv={name}" for name in ("PYTHONPATH", "TMPDIR")]
        wrapper = [ACTIVATE, f"--listen=127.0.0.1:{port}", "--fdname=http", *kept]
    service.start(workers=2, wrapper=wrapper, ready=0)
    own, service.port = service.port, port
    client = service.wait(lambda: connected(service), "socket")
    assert client.pid() in service.wait_living(2)
    assert not listens(own)
    helper = service.start_helper(service.living()[0], "child")
    assert "LISTEN_FDS=" not in Path(f"/proc/{helper}/environ").read_text()
    client.close()
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    assert not listens(port)


def connected(service: Service) -> Client | None:
    try:
        return service.client()
    except ConnectionError:
        return None


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
