"""The architecture: imports between the folders of the package point one way."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import litellm_resilience

TESTS = Path(__file__).parents[1]
SHARED_NAMES = {"__init__.py", "conftest.py"}
PACKAGE = Path(litellm_resilience.__file__).parent
NAME = PACKAGE.name
ORDER = (
    *("command", "servers", "repairs", "status", "supervisor", "records", "session"),
    *("plan", "demo"),
)
"""Each folder may know only folders after it, and of those only what `MAY_IMPORT` names."""
MAY_IMPORT = {
    "command": {"servers", "repairs", "supervisor", "status", "plan"},
    "servers": {"repairs", "supervisor", "status"},
    "repairs": {"session", "records", "supervisor", "status"},
    "status": {"supervisor", "session"},
}
TOP = {"__init__.py": {"repairs", "session"}, "__main__.py": {"command"}, "asgi.py": {"servers"}}
"""The public modules, and what they open the door to."""
FOR_ALL = f"{NAME}.__version__"
"""All that a folder may take from the modules at the top."""
KNOW_LITELLM = {"servers", "repairs"}
ABOUT_LITELLM = {"litellm", "litellm_cli", "litellm_enterprise"}
CALLBACKS = {PACKAGE / "demo" / "close_session.py", PACKAGE / "demo" / "batch_sink.py"}
"""Loaded by LiteLLM from a copy of the file; nothing of this package imports LiteLLM with them."""
DEMO_NEEDS = {*sys.stdlib_module_names, "aiohttp", "typing_extensions", NAME}
FOR_TESTS = {"tests", "benchmarks", "pytest"}
IMPORTERS = {"import_module", "find_spec", "__import__"}
MODULE_PATH = re.compile(r"\w+(\.\w+)+(:\w+)?")


def path_of(module: str) -> Path | None:
    stem = PACKAGE.parent.joinpath(*module.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def folder_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else ""


MODULES = {path: module_of(path) for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """Yield the names that a file imports: anywhere in it, for types too, and by strings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in IMPORTERS and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            module = node.value.partition(":")[0]
            package = module.partition(".")[0]
            if MODULE_PATH.fullmatch(node.value) and (
                package in ABOUT_LITELLM or (package == NAME and path_of(module))
            ):
                yield module


IMPORTED = {path: set(imported(path)) for path in MODULES}


def ours(names: set[str]) -> Iterator[Path]:
    """Yield the files of this package that have these names."""
    for name in names - {FOR_ALL}:
        if name.split(".")[0] == NAME:
            path = path_of(name) or path_of(name.rpartition(".")[0])
            assert path is not None, name
            yield path


def test_each_folder_has_its_place() -> None:
    found = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert found == set(ORDER)
    assert {path.name for path in PACKAGE.glob("*.py")} == set(TOP)


def test_imports_point_down() -> None:
    for folder, others in MAY_IMPORT.items():
        assert others <= set(ORDER[ORDER.index(folder) + 1 :]), folder


@pytest.mark.parametrize("folder", ORDER)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    allowed = {folder, *MAY_IMPORT.get(folder, ())}
    for path in (path for path in MODULES if folder_of(path) == folder):
        for other in ours(IMPORTED[path]):
            # A server is told to import the application by its public name.
            if (folder, other.name) != ("servers", "asgi.py"):
                assert folder_of(other) in allowed, f"{path} imports {other}"


@pytest.mark.parametrize("name", TOP)
def test_a_public_module_opens_one_door(name: str) -> None:
    assert {folder_of(path) for path in ours(IMPORTED[PACKAGE / name])} == TOP[name]


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {path: set(ours(names)) - {path} for path, names in IMPORTED.items()}
    TopologicalSorter(graph).prepare()


def test_only_repairs_and_servers_know_litellm() -> None:
    for path, names in IMPORTED.items():
        if folder_of(path) not in KNOW_LITELLM and path not in CALLBACKS:
            known = {name for name in names if name.split(".")[0] in ABOUT_LITELLM}
            assert not known, f"{path} knows {known}"


def test_the_demo_needs_nothing_else() -> None:
    for path, names in IMPORTED.items():
        if folder_of(path) == "demo" and path not in CALLBACKS:
            assert {name.split(".")[0] for name in names} <= DEMO_NEEDS, path


def test_nothing_for_tests_is_in_the_package() -> None:
    for path, names in IMPORTED.items():
        assert not FOR_TESTS & {name.split(".")[0] for name in names}, path
    needed = {PACKAGE / "demo" / "__init__.py"}
    new = {PACKAGE / "demo" / "__main__.py"}
    while new:
        needed |= new
        new = {path for file in new for path in ours(IMPORTED[file])} - needed
    assert {path for path in MODULES if folder_of(path) == "demo"} == needed


def test_every_file_of_tests_has_a_name_of_its_own() -> None:
    """They are in no package: pytest could not collect two of one name together."""
    files = [path for path in TESTS.rglob("*.py") if path.name not in SHARED_NAMES]
    counts = Counter(path.name for path in files)
    assert len(files) > 50
    assert [name for name, count in counts.items() if count > 1] == []
