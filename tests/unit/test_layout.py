"""The architecture: imports between the folders of the package point one way."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import litellm_resilience

TESTS = Path(__file__).parents[1]
SHARED_NAMES = {"__init__.py", "conftest.py"}
PACKAGE = Path(litellm_resilience.__file__).parent
NAME = PACKAGE.name
MAY_IMPORT = {
    "command": {"servers", "repairs", "supervisor", "status", "plan"},
    "servers": {"repairs", "supervisor", "status"},
    "repairs": {"session", "supervisor", "status"},
    "status": {"supervisor", "session"},
    "supervisor": set(),
    "session": set(),
    "plan": set(),
    "demo": set(),
}
"""Which folders each folder may know; the public modules at the top are above them all."""
KNOW_LITELLM = {"servers", "repairs"}
ABOUT_LITELLM = {"litellm", "litellm_cli", "litellm_enterprise"}
CALLBACK = PACKAGE / "demo" / "close_session.py"
"""Loaded by LiteLLM from a copy of the file; nothing of this package imports LiteLLM with it."""


def modules() -> Iterator[Path]:
    yield from PACKAGE.rglob("*.py")


def folder_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else ""


def imported(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, wherever in it, and however."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            names = (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))
            yield from (name for name in names if isinstance(name, str))


def test_there_is_no_other_folder() -> None:
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert found == set(MAY_IMPORT)


def test_the_order_has_no_circle() -> None:
    above: set[str] = set()
    while len(above) < len(MAY_IMPORT):
        free = {name for name in MAY_IMPORT if name not in above and MAY_IMPORT[name] <= above}
        assert free
        above |= free


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_is_below_it(folder: str) -> None:
    files = [path for path in modules() if folder_of(path) == folder]
    assert files
    for path in files:
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == NAME and len(parts) > 1 and (PACKAGE / parts[1]).is_dir():
                assert parts[1] in MAY_IMPORT[folder] | {folder}, f"{path} imports {name}"


def test_only_repairs_and_servers_know_litellm() -> None:
    for path in modules():
        names = {name.split(".")[0] for name in imported(path)}
        if folder_of(path) not in KNOW_LITELLM and path != CALLBACK:
            assert not names & ABOUT_LITELLM, f"{path} imports {names & ABOUT_LITELLM}"


def test_nothing_for_tests_is_in_the_package() -> None:
    for path in modules():
        assert not any(name.split(".")[0] in {"tests", "benchmarks"} for name in imported(path))
    assert {path.stem for path in (PACKAGE / "demo").glob("*.py")} == {
        "__init__",
        "__main__",
        "close_session",
        "console",
        "lifetime",
        "load",
        "provider",
        "proxy",
        "summary",
    }


def test_every_file_of_tests_has_a_name_of_its_own() -> None:
    """They are in no package: pytest could not collect two of one name together."""
    files = [path for path in TESTS.rglob("*.py") if path.name not in SHARED_NAMES]
    counts = Counter(path.name for path in files)
    assert len(files) > 50
    assert [name for name, count in counts.items() if count > 1] == []
