"""The tree of a release: what a package index shows leads somewhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).parents[2]
URL = "https://example.org/owner/project"


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", PROJECT / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_and_pictures_become_absolute_and_others_stay(release: ModuleType) -> None:
    text = "![a](docs/a.svg) [b](docs/b.md#c) [d](https://d.org) [e](#f)"
    assert release.absolute(text, URL) == (
        f"![a]({URL}/raw/main/docs/a.svg) [b]({URL}/blob/main/docs/b.md#c) "
        "[d](https://d.org) [e](#f)"
    )


def test_the_tree_names_its_address_and_has_no_relative_link_left(
    release: ModuleType, tmp_path: Path
) -> None:
    release.main(f"{URL}/", tmp_path / "tree")
    page = (tmp_path / "tree" / "README.md").read_text(encoding="utf-8")
    assert not list(release.RELATIVE.finditer(page))
    project = (tmp_path / "tree" / "pyproject.toml").read_text(encoding="utf-8")
    assert f'Homepage = "{URL}"' in project
    assert not (tmp_path / "tree" / ".git").exists()
