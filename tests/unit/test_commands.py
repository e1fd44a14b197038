"""Commands to a running supervisor: the table, and the command line before and after the socket."""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from litellm_resilience.command import entry
from litellm_resilience.status import channel
from litellm_resilience.supervisor import commands

BAD = [
    (["rol"], "there is no command 'rol', only roll"),
    (["roll", "1"], "roll takes no argument"),
    (["recycle"], "recycle takes one argument, N"),
    (["recycle", "1", "2"], "recycle takes one argument, N"),
    (["recycle", "0"], "'0' is not a whole number above 0"),
    (["recycle", "-1"], "'-1' is not"),
    (["recycle", "+1"], "'+1' is not"),
    (["recycle", "1.0"], "'1.0' is not"),
    (["recycle", "\u0663"], "is not a whole number above 0"),
    (["workers", "1_0"], "'1_0' is not"),
    (["workers", "9" * 10], "is not a whole number"),
    (["workers", " 1"], "' 1' is not"),
    (["upgrade", ""], "'' is not an absolute path"),
    (["upgrade", "venv/bin/x"], "is not an absolute path"),
]


def ctl(*arguments: str) -> Result:
    return CliRunner().invoke(entry.cli, ["--ctl", *arguments], prog_name=entry.PROGRAM)


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATUS_SOCKET", raising=False)


@pytest.mark.parametrize(("words", "message"), BAD)
def test_what_is_no_command_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        commands.parse(words)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=3))
def test_no_words_are_a_fault(words: list[str]) -> None:
    with contextlib.suppress(ValueError):
        name, _ = commands.parse(words)
        assert name in commands.COMMANDS


@pytest.mark.parametrize(
    "arguments",
    [
        *(words for words, _ in BAD if words[0] != "recycle" or words[-1] != "-1"),
        ["roll", "--config", "x"],
        ["recycle", "-1"],
        ["roll", "--port", "0"],
        ["roll", "--port", "many"],
        ["roll", "--watch"],
        [],
    ],
)
def test_a_bad_command_is_a_usage_error_that_reaches_nobody(
    arguments: list[str], mocker: MockerFixture
) -> None:
    mocker.patch.object(channel, "ask", side_effect=AssertionError)
    result = ctl(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert "Error: " in result.output


@pytest.mark.skipif(os.name != "posix", reason="no Unix sockets here")
class TestAnswers:
    """What is printed, and with which exit code the command ends."""

    @pytest.mark.parametrize(
        ("answer", "status", "printed"),
        [
            ({"done": "replacing worker 3"}, 0, "replacing worker 3\n"),
            ({"done": "\x1b[2J"}, 0, "?[2J\n"),
            ({"refused": "there is no worker 3"}, 1, "Not done: there is no worker 3.\n"),
            ({"supervisor": {"pid": 1}}, 1, "Not done: the supervisor there is of a version"),
            ({"done": 1}, 1, "Not done: the supervisor there is of a version"),
            ({"refused": None}, 1, "Not done: the supervisor there is of a version"),
        ],
    )
    def test_says_what_was_done(
        self, answer: dict[str, Any], status: int, printed: str, mocker: MockerFixture
    ) -> None:
        ask = mocker.patch.object(channel, "ask", return_value=answer)
        mocker.patch.object(channel, "chosen", return_value="path")
        result = ctl("recycle", "3")
        assert result.exit_code == status
        assert result.output.startswith(printed)
        ask.assert_called_once_with("path", ["recycle", "3"])
        as_json = ctl("recycle", "3", "--json")
        assert as_json.exit_code == status
        assert ("done" in json.loads(as_json.stdout)) is (status == 0)

    def test_nobody_to_tell_is_an_error(self, tmp_path: Any, mocker: MockerFixture) -> None:
        mocker.patch.object(channel, "directory", return_value=tmp_path / "none")
        result = ctl("stop", "--port", "4000")
        assert result.exit_code == 1
        assert "Not done: no supervisor runs at " in result.output
        assert "4000.sock" in result.output
        assert not (tmp_path / "none").exists()
