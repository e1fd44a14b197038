"""How workers are started, as --doctor says it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.command import workers
from litellm_resilience.command.workers import WorkerStart
from litellm_resilience.status import channel

SOCKET = Path("/run/proxy.sock")
OBSTACLE = "set after modules had read them: DATABASE_URL"


@pytest.mark.skipif(os.name != "posix", reason="no Unix sockets here")
@pytest.mark.parametrize(
    ("method", "obstacle", "how"),
    [
        ("forked", None, "forked"),
        ("template", OBSTACLE, f"forked from a template: {OBSTACLE}"),
        ("spawned", "--no_preload", "spawned: --no_preload"),
        ("template", "\x1b[2J\n", "forked from a template: ?[2J?"),
    ],
)
def test_the_supervisor_that_runs_is_asked(
    method: str, obstacle: str | None, how: str, mocker: MockerFixture
) -> None:
    supervisor = {"pid": 42, "start_method": method, "start_obstacle": obstacle}
    asked = mocker.patch.object(channel, "ask", return_value={"supervisor": supervisor})
    assert workers.find(SOCKET, preload=True) == WorkerStart(how, 42)
    asked.assert_called_once_with(SOCKET)


@pytest.mark.parametrize("answer", [{}, {"supervisor": None}, {"supervisor": {"pid": "x"}}])
def test_what_is_no_supervisor_says_nothing(answer: Any, mocker: MockerFixture) -> None:
    mocker.patch.object(channel, "ask", return_value=answer)
    assert workers.find(SOCKET, preload=True).supervisor is None


@pytest.mark.parametrize(
    ("preload", "platform", "how"),
    [
        (False, "linux", "spawned: --no_preload"),
        (True, "darwin", "spawned: on darwin forking is not safe"),
        (True, "linux", workers.UNDECIDED),
    ],
)
def test_without_one_it_says_what_a_new_one_would_do(
    preload: bool, platform: str, how: str, mocker: MockerFixture, tmp_path: Path
) -> None:
    mocker.patch.object(sys, "platform", platform)
    assert workers.find(tmp_path / "none.sock", preload=preload) == WorkerStart(how)
