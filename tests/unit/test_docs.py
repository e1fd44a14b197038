"""The documentation says what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

from litellm_resilience.command import options

PROJECT = Path(__file__).parents[2]
DOCS = sorted(PROJECT.glob("docs/*.md"))
PAGES = [PROJECT / "README.md", PROJECT / "deploy" / "README.md", *DOCS]
OPTION_ROW = re.compile(r"^\| `--(?P<name>\w+)[^|]*\| (?P<default>[^|]*) \|", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
VARYING = re.compile(r"SIG[A-Z]+|[Ww]orker\b|[…,;:()]")
LOG_LINE = re.compile(r"^\| (`[^|]*`) \|", re.MULTILINE)


def documented_defaults() -> dict[str, str]:
    page = (PROJECT / "docs" / "options.md").read_text()
    return {row["name"]: row["default"].strip() for row in OPTION_ROW.finditer(page)}


@pytest.mark.parametrize("option", options.serving_options(), ids=lambda option: option.name)
def test_every_serving_option_is_documented_with_its_default(option: click.Option) -> None:
    defaults = documented_defaults()
    assert option.name in defaults
    if isinstance(option.default, (int, float)) and not option.is_flag:
        assert float(defaults[option.name]) == option.default
    else:
        assert defaults[option.name] in {"none", "off", "by port"}


def test_every_option_that_looks_is_documented() -> None:
    page = (PROJECT / "docs" / "options.md").read_text()
    for option in [*options.inspection_options(), *options.planning_options()]:
        assert f"`{option.opts[0]}" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor and target.suffix == ".md":
            assert anchor[1:] in headings(target), anchor


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def messages() -> str:
    """Return every string of the code, with a … for what varies."""
    found = []
    for path in (PROJECT / "litellm_resilience").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return re.sub(r"%[.\d]*[sdfg]|\{[^}]*\}", "…", "\n".join(found))


def test_every_log_line_of_the_troubleshooting_exists() -> None:
    """Each part of a line, between what varies and punctuation, is in some message of ours."""
    page = (PROJECT / "docs" / "troubleshooting.md").read_text()
    known = messages().lower()
    lines = [line for cell in LOG_LINE.findall(page) for line in re.findall(r"`([^`]*)`", cell)]
    assert len(lines) > 25
    for line in lines:
        for words in VARYING.split(line):
            assert words.strip(" .").lower() in known, (line, words)
