"""The documentation says what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from litellm_resilience.command import options

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
DOCS = sorted(PROJECT.glob("docs/*.md"))
PAGES = [PROJECT / "README.md", PROJECT / "deploy" / "README.md", *DOCS]
OPTION_ROW = re.compile(r"^\| `--(?P<name>\w+)[^|]*\| (?P<default>[^|]*) \|", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
VARYING = re.compile(r"SIG[A-Z]+|[Ww]orker\b|[…,;:()]")
LOG_LINE = re.compile(r"^\| (`[^|]*`) \|", re.MULTILINE)
PLACEHOLDER = re.compile(r"%[.\d]*[sdfg]|\{[^}]*\}")
CLAUSE = re.compile(r"[…:;.,()]")
TELLING_LENGTH = len("ended it")
PREFIX = re.compile(r"^(?:litellm-resilience|SESSION REUSE): ")
LOUD = {"warning", "error", "exception", "critical", "warn", "_warn"}
"""Methods and functions that log what an operator should see."""


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
        assert defaults[option.name] in {"none", "off", "by port", "workers, at least 2"}


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


def code() -> Iterator[ast.AST]:
    """Return all nodes of the package's code."""
    for path in (PROJECT / "litellm_resilience").rglob("*.py"):
        yield from ast.walk(ast.parse(path.read_text()))


def text_of(node: ast.AST) -> str | None:
    """Return a string of the code with a … for what varies; None for anything else."""
    if isinstance(node, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
        return PLACEHOLDER.sub("…", "".join(map(str, parts)))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return PLACEHOLDER.sub("…", node.value)
    return None


def messages() -> str:
    """Return every string of the code, with a … for what varies."""
    return "\n".join(text for text in map(text_of, code()) if text is not None)


def loud_messages() -> Iterator[str]:
    """Return what the code logs as a warning or an error, with a … for what varies."""
    for node in code():
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        arguments = list(node.args)
        if name == "_write" and getattr(arguments[0], "attr", "") in {"WARNING", "ERROR"}:
            del arguments[0]
        elif name not in LOUD:
            continue
        text = text_of(arguments[0]) if arguments else None
        if text is not None:
            yield text


def runbook_lines() -> list[str]:
    """Return the log lines that the runbook has a row for."""
    page = (PROJECT / "docs" / "runbook.md").read_text()
    return [line for cell in LOG_LINE.findall(page) for line in re.findall(r"`([^`]*)`", cell)]


def test_every_log_line_of_the_runbook_exists() -> None:
    """Each part of a line, between what varies and punctuation, is in some message of ours."""
    known = messages().lower()
    lines = runbook_lines()
    assert len(lines) > 25
    for line in lines:
        for words in VARYING.split(line):
            assert words.strip(" .").lower() in known, (line, words)


@pytest.mark.parametrize("message", sorted(set(loud_messages())))
def test_every_warning_and_error_has_a_row_in_the_runbook(message: str) -> None:
    """The first words of some length that do not vary are in some row.

    A message of which nearly all varies says what is said elsewhere, and is tested there.
    """
    clauses = [part.strip() for part in CLAUSE.split(PREFIX.sub("", message))]
    telling = [clause for clause in clauses if len(clause) >= TELLING_LENGTH]
    words = telling[0] if telling else max(clauses, key=len)
    assert words.lower() in "\n".join(runbook_lines()).lower(), message
