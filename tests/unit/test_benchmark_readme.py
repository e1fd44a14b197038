"""Every figure of the README is one that the benchmark has measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks import readme

PROJECT = Path(__file__).parents[2]


def test_the_readme_shows_the_committed_figures() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    figures = readme.fragments(PROJECT / "benchmarks" / "results")
    assert readme.regions(text)
    assert readme.rewritten(text, figures) == text
