"""Every figure of the README is one that the benchmark has measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks import readme
from benchmarks.results import Results

PROJECT = Path(__file__).parents[2]
RESULTS = PROJECT / "benchmarks" / "results"


def test_the_readme_shows_the_committed_figures() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    results = Results.load_from(RESULTS / "results.json")
    figures = readme.fragments(results, RESULTS / "long.jsonl")
    assert readme.regions(text)
    assert readme.rewritten(text, figures) == text


def test_the_page_with_everything_shows_them_too() -> None:
    page = (RESULTS / "results.md").read_text(encoding="utf-8")
    results = Results.load_from(RESULTS / "results.json")
    assert page == readme.page(results, RESULTS / "long.jsonl")
