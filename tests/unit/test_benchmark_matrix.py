"""Which set-ups are measured, and in which order."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from benchmarks.evidence import COSTS
from benchmarks.interpreters import UnusableError, environment, prepare
from benchmarks.report import order
from benchmarks.setups import (
    BARE,
    LINES,
    MAIN_LINE,
    PICTURED,
    PRODUCTION,
    ROOT,
    STACKS,
    Cell,
    cells,
)
from benchmarks.stacks import CALLBACKS, SERVICES, missing


def test_each_line_is_measured_and_everything_once_on_one_of_them() -> None:
    chosen = cells()
    assert len(chosen) == len({cell.key for cell in chosen}) == 16
    bare = [cell for cell in chosen if cell.stack == BARE]
    base = [c for c in bare if (c.server, c.workers, c.way) == ("uvicorn", 2, "direct")]
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
    assert len(chosen) == 13
    assert Cell("1.79.3", front="nginx") in chosen
    assert [cell for cell in chosen if cell.line == "1.84.0"] == [Cell("1.84.0")]


def test_the_sides_take_turns_to_go_first() -> None:
    assert order(0) == order(2) == tuple(reversed(order(1)))


@pytest.mark.parametrize("line", LINES)
def test_every_line_is_one_that_the_tests_are_run_on(line: str) -> None:
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    factor = environment(line, production=False).partition("-")[2]
    assert f" {factor}: litellm[proxy]=={line}\n" in tox


def test_the_main_line_is_tested_with_what_stacks_need() -> None:
    envs = (ROOT / "tox.ini").read_text(encoding="utf-8").partition("labels =")[0]
    assert re.search(rf"litellm\{{.*{MAIN_LINE.replace('.', '_')}.*\}}-production", envs)
    assert environment(MAIN_LINE, production=True).endswith("-litellm1_106_2-production")


def test_an_interpreter_with_another_litellm_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho \'{"litellm": "1.2.3"}\'\n')
    python.chmod(0o755)
    with pytest.raises(UnusableError, match=r"has LiteLLM 1\.2\.3, not 1\.106\.2"):
        prepare(MAIN_LINE, {MAIN_LINE: python}, production=False)


def test_without_tox_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnusableError, match="tox is not installed: install it, or"):
        prepare(MAIN_LINE, {}, production=False)


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_is_of_services_that_can_be_started(stack: str) -> None:
    assert SERVICES.keys() >= set(STACKS[stack])
    assert CALLBACKS.keys() <= SERVICES.keys()


def test_a_stack_without_its_programs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(BARE) == []
    monkeypatch.setenv("PATH", "")
    assert {"node", "npm"} <= set(missing(PRODUCTION[0].stack))


def test_what_people_run_comes_before_everything_else_that_is_in_the_tables() -> None:
    stacks = [cell.stack for cell in cells()[1:]]
    assert stacks[:2] == [cell.stack for cell in PRODUCTION]
    assert set(stacks[2:]) == {BARE}


def test_a_set_up_with_a_stack_has_a_name_of_its_own_and_is_read_again() -> None:
    bare, full = Cell(MAIN_LINE), PRODUCTION[0]
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
    assert imports["evidence"] > {"part", "readme"}
    # Imported by name, in a process of the line's interpreter.
    imports["part"] |= {"cell", "session", *COSTS}
    assert len(list(TopologicalSorter(imports).static_order())) == len(imports)
