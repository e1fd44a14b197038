"""Which set-ups are measured, and in which order."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from benchmarks.environments import Requirements
from benchmarks.report import order
from benchmarks.setups import LINES, MAIN_LINE, PICTURED, Cell, Stack, cells


def test_each_line_is_measured_and_everything_once_on_one_of_them() -> None:
    chosen = cells()
    assert len(chosen) == len({cell.key for cell in chosen}) == 14
    base = [c for c in chosen if (c.server, c.workers, c.way) == ("uvicorn", 2, "direct")]
    assert {cell.line for cell in base} == set(LINES)
    for server in ("uvicorn", "gunicorn"):
        for workers in (1, 2, 4):
            assert Cell(MAIN_LINE, server, workers) in chosen
    ways = {cell.way for cell in chosen if cell.line == MAIN_LINE}
    assert ways == {"direct", "openai client", "through nginx", "through haproxy"}


def test_the_picture_has_a_load_of_its_own() -> None:
    first, *others = cells()
    assert first == Cell(MAIN_LINE, kinds=(PICTURED,))
    assert all(PICTURED not in cell.kinds for cell in others)


def test_a_selection_measures_nothing_else() -> None:
    assert cells(("1.81.12",), ("4 gunicorn",)) == [Cell("1.81.12", "gunicorn", 4)]
    assert [cell.way for cell in cells(only=("nginx", "openai"))] == [
        "through nginx",
        "openai client",
    ]


def test_without_the_main_line_the_first_one_stands_for_it() -> None:
    chosen = cells(("1.79.3", "1.84.0"))
    assert len(chosen) == 11
    assert Cell("1.79.3", front="nginx") in chosen
    assert [cell for cell in chosen if cell.line == "1.84.0"] == [Cell("1.84.0")]


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


def test_a_stack_is_a_record_that_has_secrets_from_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack = Stack({"DD_ENV": "test"}, ("DATABASE_URL",), wrapper=("ddtrace-run", "--info"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert stack.missing == ["DATABASE_URL"]
    monkeypatch.setenv("DATABASE_URL", "postgresql://here")
    assert stack.missing == []
    assert stack.variables() == {"DD_ENV": "test", "DATABASE_URL": "postgresql://here"}
    command = stack.command(["/venv/bin/litellm"], "/venv/bin/python")
    assert command == ["/venv/bin/ddtrace-run", "--info", "/venv/bin/litellm"]


def test_a_set_up_with_a_stack_has_a_name_of_its_own_and_is_read_again() -> None:
    bare, full = Cell(MAIN_LINE), Cell(MAIN_LINE, stack="production")
    assert full.key != bare.key
    assert str(full) != str(bare)
    assert Cell.from_json(full.as_json()) == full


def test_a_bare_set_up_is_stored_without_its_stack() -> None:
    assert "stack" not in Cell(MAIN_LINE).as_json()


def test_modules_do_not_import_in_a_circle() -> None:
    folder = Path(__file__).parents[2] / "benchmarks"
    imports: dict[str, set[str]] = {}
    for path in folder.glob("*.py"):
        found = imports.setdefault(path.stem, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "benchmarks":
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks."):
                found.add(str(node.module).partition(".")[2])
    assert imports["evidence"] > {"cell", "readme"}
    assert len(list(TopologicalSorter(imports).static_order())) == len(imports)
