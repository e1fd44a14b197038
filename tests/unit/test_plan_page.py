"""The page about planning shows what the command prints."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from litellm_resilience.command.entry import cli

PAGE = Path(__file__).parents[2] / "docs" / "planning.md"


def test_the_example_of_the_page_is_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = PAGE.read_text(encoding="utf-8")
    example = text.partition("$ litellm-resilient --plan ")[2].partition("```")[0]
    command, _, shown = example.replace("\\\n", "").partition("\n")
    result = CliRunner().invoke(cli, ["--plan", *shlex.split(command)])
    assert result.exit_code == 0, result.output
    for part in shown.split("...\n"):
        assert part.strip("\n") in result.output
