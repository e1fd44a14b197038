"""The README shows what the command prints."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from litellm_resilience.command.entry import cli

README = Path(__file__).parents[2] / "README.md"


def test_the_example_in_the_readme_is_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = README.read_text(encoding="utf-8")
    example = text.partition("$ litellm-resilient --plan ")[2].partition("```")[0]
    command, _, shown = example.replace("\\\n", "").partition("\n")
    result = CliRunner().invoke(cli, ["--plan", *shlex.split(command)])
    assert result.exit_code == 0, result.output
    for part in shown.split("...\n"):
        assert part.strip("\n") in result.output
