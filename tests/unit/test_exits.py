"""The log says why a process ended in words an operator can act on."""

from __future__ import annotations

import signal

import pytest

from litellm_resilience.supervisor.exits import describe

UNKNOWN_SIGNAL = 200


@pytest.mark.parametrize("status", [0, 1, 3])
def test_a_status_is_named(status: int) -> None:
    assert describe(status) == f"exited with status {status}"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGSEGV", "SIGABRT"])
def test_a_signal_is_named(name: str) -> None:
    assert describe(-getattr(signal, name)) == f"killed by {name}"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_sigkill_hints_at_the_memory() -> None:
    assert describe(-9) == "killed by SIGKILL, likely out of memory"


def test_a_signal_python_does_not_know_keeps_its_number() -> None:
    assert describe(-UNKNOWN_SIGNAL) == f"killed by signal {UNKNOWN_SIGNAL}"


@pytest.mark.parametrize("exitcode", [None, 0, -9])
def test_the_supervisors_own_reason_comes_first(exitcode: int | None) -> None:
    """A kill by the supervisor must not look like one by the kernel."""
    reason = "it was not ready within 300 s"
    assert describe(exitcode, reason) == "killed because it was not ready within 300 s"


def test_an_unknown_end_is_admitted() -> None:
    assert describe(None) == "ended for an unknown reason"
