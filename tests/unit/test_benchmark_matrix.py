"""Which set-ups are measured, and in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.environments import Requirements
from benchmarks.report import order
from benchmarks.setups import LINES, MAIN_LINE, PICTURED, STACKS, Cell, Selection, Stack


def test_the_default_measures_each_line_and_everything_once_on_one_of_them() -> None:
    cells = Selection().cells()
    assert len(cells) == len({cell.key for cell in cells}) == 14
    base = [c for c in cells if (c.server, c.workers, c.way) == ("uvicorn", 2, "direct")]
    assert {cell.line for cell in base} == set(LINES)
    for server in ("uvicorn", "gunicorn"):
        for workers in (1, 2, 4):
            assert Cell(MAIN_LINE, server, workers) in cells
    ways = {cell.way for cell in cells if cell.line == MAIN_LINE}
    assert ways == {"direct", "openai client", "through nginx", "through haproxy"}


def test_the_picture_has_a_load_of_its_own() -> None:
    first, *others = Selection().cells()
    assert first == Cell(MAIN_LINE, kinds=(PICTURED,))
    assert all(PICTURED not in cell.kinds for cell in others)
    assert all(PICTURED not in cell.kinds for cell in Selection(kinds=("stream",)).cells())


def test_the_whole_product_has_every_set_up_of_every_line() -> None:
    cells = Selection(full=True).cells()
    assert len(cells) == 1 + len(LINES) * 2 * 3 * 4


def test_a_selection_measures_nothing_else() -> None:
    selection = Selection(
        lines=("1.81.12",),
        servers=("gunicorn",),
        workers=(4,),
        kinds=("json",),
        fronts=("nginx",),
    )
    assert selection.cells() == [Cell("1.81.12", "gunicorn", 4, "keep-alive", "nginx", ("json",))]
    more = replace(selection, clients=("openai",), fronts=("none",))
    assert [cell.way for cell in more.cells()] == ["openai client"]


def test_the_sides_take_turns_to_go_first() -> None:
    assert order(0) == order(2) == tuple(reversed(order(1)))


@pytest.mark.parametrize("line", LINES)
def test_every_line_is_one_that_the_tests_are_run_on(line: str) -> None:
    assert Requirements.of(line).packages[0] == f"litellm[proxy]=={line}"


def test_what_a_line_needs_is_in_tox_ini() -> None:
    assert Requirements.of("1.95.1").packages == ("litellm[proxy]==1.95.1", "fastapi<0.140")
    overrides = Requirements.of("1.109.1").overrides
    assert overrides is not None
    assert overrides.exists()
    assert Requirements.of("1.106.2").overrides is None


def test_a_line_that_is_not_tested_can_be_measured(tmp_path: Path) -> None:
    assert Requirements.of("1.99.0") == Requirements(("litellm[proxy]==1.99.0",))


def test_a_stack_is_one_more_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured on the main line, and has what it needs from the caller's environment."""
    stack = Stack({"DD_ENV": "test"}, ("DATABASE_URL",), wrapper=("ddtrace-run", "--info"))
    monkeypatch.setitem(STACKS, "production", stack)
    usual = Selection().cells()
    added = [cell for cell in Selection(stacks=tuple(STACKS)).cells() if cell not in usual]
    assert added == [Cell(MAIN_LINE, stack="production")]
    assert added[0].key not in {cell.key for cell in usual}
    assert Cell.from_json(added[0].as_json()) == added[0]
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert stack.missing == ["DATABASE_URL"]
    monkeypatch.setenv("DATABASE_URL", "postgresql://here")
    assert stack.variables() == {"DD_ENV": "test", "DATABASE_URL": "postgresql://here"}
    command = stack.command(["/venv/bin/litellm"], "/venv/bin/python")
    assert command == ["/venv/bin/ddtrace-run", "--info", "/venv/bin/litellm"]


def test_a_bare_set_up_is_stored_without_its_stack() -> None:
    assert "stack" not in Cell(MAIN_LINE).as_json()
