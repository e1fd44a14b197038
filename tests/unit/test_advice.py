"""What the doctor advises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.command import advice, doctor


def advised(
    *arguments: str, settings: dict[str, Any] | None = None, knows_http2: bool = True
) -> str:
    given = doctor._given(("--doctor", *arguments))
    return "\n".join(advice.of(given, settings or {}, knows_http2=knows_http2))


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEEPALIVE_TIMEOUT", "LITELLM_HTTP2"):
        monkeypatch.delenv(name, raising=False)


def test_connections_that_a_load_balancer_keeps_longer_are_advised_against() -> None:
    assert "closed after 5 s" in advised()
    assert "closed after 60 s" in advised("--keepalive_timeout", "60")
    assert "set --keepalive_timeout 65" in advised()
    assert advised("--keepalive_timeout", "61") == ""


def test_the_variable_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPALIVE_TIMEOUT", "75")
    assert advised() == ""


def test_gunicorn_cannot_be_told() -> None:
    assert "after 2 s" in advised("--run_gunicorn", "--keepalive_timeout", "75")


@pytest.mark.parametrize("server", ["--run_hypercorn", "--run_granian"])
def test_nothing_is_said_of_servers_that_are_not_known(server: str) -> None:
    assert advised(server) == ""


@pytest.mark.parametrize(
    ("settings", "variable", "told"),
    [
        ({"http2": True}, None, True),
        ({"http2": False}, None, False),
        ({}, "True", True),
        ({}, "false", False),
        ({}, None, False),
    ],
)
def test_http2_takes_providers_off_the_shared_session(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], variable: str | None, told: bool
) -> None:
    if variable is not None:
        monkeypatch.setenv("LITELLM_HTTP2", variable)
    kept = ("--keepalive_timeout", "65")
    assert ("With http2" in advised(*kept, settings=settings)) is told
    assert advised(*kept, settings=settings, knows_http2=False) == ""


@pytest.mark.parametrize("as_json", [True, False])
def test_the_doctor_shows_it(
    mocker: MockerFixture, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    mocker.patch("litellm_resilience.repairs.registry.install", side_effect=ImportError("not here"))
    assert doctor.run(("--doctor",), as_json=as_json) == 1
    shown = capsys.readouterr().out
    found = json.loads(shown)["advice"] if as_json else [shown]
    assert any("closed after 5 s" in each for each in found)
