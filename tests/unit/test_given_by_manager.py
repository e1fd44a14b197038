"""What the environment says that a service manager has given."""

from __future__ import annotations

import os
import socket

import pytest

from litellm_resilience.supervisor import service_manager
from litellm_resilience.supervisor.service_manager import Given, given


@pytest.fixture(autouse=True)
def _unmanaged(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in service_manager.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_given_by_nobody() -> None:
    assert given() == Given()


def test_what_another_process_was_given_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("NOTIFY_SOCKET", "@x")
    monkeypatch.setenv("WATCHDOG_USEC", "5000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert given() == Given((), "@x", None)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert given() == Given((), "@x", 5.0)


@pytest.mark.parametrize("listens", [True, False])
def test_only_sockets_that_listen_are_taken(monkeypatch: pytest.MonkeyPatch, listens: bool) -> None:
    with socket.socket() as passed:
        passed.bind(("127.0.0.1", 0))
        if listens:
            passed.listen()
        monkeypatch.setattr(service_manager, "FIRST_DESCRIPTOR", passed.fileno())
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        if not listens:
            with pytest.raises(ValueError, match="is no socket that listens"):
                given()
            return
        (taken,) = given().sockets()
        assert taken.getsockname() == passed.getsockname()
        assert not taken.get_inheritable()
        taken.detach()


def test_nothing_is_left_for_children(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in service_manager.VARIABLES:
        monkeypatch.setenv(name, "1")
    service_manager.forget()
    assert not set(service_manager.VARIABLES) & set(os.environ)
