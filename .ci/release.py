"""Write the tree that a release is built from: this one, with what only a published page needs.

usage: python .ci/release.py REPOSITORY_URL DIRECTORY

Nothing in the repository names its public address. The copy in DIRECTORY does: pyproject.toml gets
`[project.urls]`, and the README's links and pictures become absolute, since a package index shows
the README alone.
"""
# ruff: noqa: INP001

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BRANCH = "main"
RELATIVE = re.compile(r"(?P<picture>!?)(?P<text>\[[^]]*\])\((?!https?:|#)(?P<path>[^)]+)\)")
LEFT_OUT = shutil.ignore_patterns(".git", ".tox", ".*_cache", ".hypothesis", "__pycache__", "dist")
SECTION = """
[project.urls]
Homepage = "{url}"
Changelog = "{url}/blob/{branch}/CHANGELOG.md"
Documentation = "{url}/tree/{branch}/docs"
Issues = "{url}/issues"
"""


def absolute(text: str, url: str) -> str:
    """Return a page with absolute links; those of pictures lead to the files themselves."""

    def replace(found: re.Match[str]) -> str:
        kind = "raw" if found["picture"] else "blob"
        return f"{found['picture']}{found['text']}({url}/{kind}/{BRANCH}/{found['path']})"

    return RELATIVE.sub(replace, text)


def main(url: str, directory: Path) -> None:
    """Write the tree.

    Raises:
        FileExistsError: there is something already.
    """
    url = url.rstrip("/")
    shutil.copytree(ROOT, directory, ignore=LEFT_OUT)
    readme = directory / "README.md"
    readme.write_text(absolute(readme.read_text(encoding="utf-8"), url), encoding="utf-8")
    with (directory / "pyproject.toml").open("a", encoding="utf-8") as project:
        project.write(SECTION.format(url=url, branch=BRANCH))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
