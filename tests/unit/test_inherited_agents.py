"""New Relic's agent connects where requests are served, once."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from litellm_resilience.servers.inheritance.agents import MODULE, NewRelic


class Agent:
    """Has what is used of New Relic's."""

    def __init__(self) -> None:
        self._process_id = 0
        self.activated: list[tuple[str, int]] = []

    def activate_application(self, app_name: str, timeout: int = 0) -> None:
        self.activated.append((app_name, timeout))


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    kind: Any = type("Agent", (Agent,), {"activate_application": Agent.activate_application})
    monkeypatch.setitem(sys.modules, MODULE, SimpleNamespace(Agent=kind))
    made: Agent = kind()
    return made


def test_an_application_connects_when_it_is_released(agent: Agent) -> None:
    new_relic = NewRelic()
    new_relic.hold()
    new_relic.hold()
    agent.activate_application("proxy", timeout=3)
    assert agent.activated == []
    new_relic.release()
    new_relic.release()
    assert agent.activated == [("proxy", 3)]
    assert agent._process_id == os.getpid()
    agent.activate_application("later")
    assert agent.activated[1:] == [("later", 0)]


def test_without_the_agent_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    new_relic = NewRelic()
    new_relic.hold()
    new_relic.release()
    assert MODULE not in sys.modules
