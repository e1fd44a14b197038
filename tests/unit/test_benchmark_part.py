"""Parts of the evidence are measured by processes of other interpreters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.part import measured


def test_a_part_is_asked_and_answers_in_json(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat\n')
    python.chmod(0o755)
    assert measured(python, "session", scenario="storm") == {"scenario": "storm"}
    assert (tmp_path / "arguments").read_text() == "-m benchmarks.part session\n"


def test_what_a_part_prints_does_not_mix_with_its_answer(tmp_path: Path) -> None:
    (tmp_path / "talkative.py").write_text("def part(number): print('hello'); return number + 1")
    code = f"import sys, runpy, benchmarks; benchmarks.__path__.append({str(tmp_path)!r}); "
    code += "sys.argv[1:] = sys.argv[3:]; runpy.run_module('benchmarks.part', run_name='__main__')"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    python.chmod(0o755)
    assert measured(python, "talkative", number=1) == 2


def test_a_part_that_fails_is_a_problem(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="ended with status 1"):
        measured(sys.executable, "nothing")
    assert "No module named 'benchmarks.nothing'" in capfd.readouterr().err
