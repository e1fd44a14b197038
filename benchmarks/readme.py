"""Write the figures of the last whole run into the README.

The README has regions between `<!-- benchmarks: NAME -->` and `<!-- end -->`; what is between them
is replaced by the figures of that name. The picture goes to `docs/benchmark.svg`. The page
with everything is written anew too.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import picture, tables
from benchmarks.commands import ROOT
from benchmarks.report import Outcome
from benchmarks.results import DIRECTORY, LONG_RUN, Results
from benchmarks.store import write_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "benchmark.svg"
REGION = re.compile(
    r"(?P<start><!-- benchmarks: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--results", type=Path, default=DIRECTORY, metavar="DIR")


def run(args: argparse.Namespace) -> Outcome:
    """Rewrite the README, the page of all figures and the picture.

    Raises:
        OSError: there was no run.
    """
    results = Results.load_from(args.results / "results.json")
    figures = tables.fragments(results, args.results / LONG_RUN)
    write(results, args.results)
    text = README.read_text(encoding="utf-8")
    README.write_text(rewritten(text, figures), encoding="utf-8")
    drawn = args.results / PICTURE.name
    if drawn.exists():
        shutil.copyfile(drawn, PICTURE)
    written = [name for name in regions(text) if name in figures]
    problems = [f"no figures for {name}" for name in regions(text) if name not in figures]
    values = {"regions": written, "problems": problems}
    return Outcome(values, [f"written: {', '.join(written)}"], problems)


def write(results: Results, directory: Path) -> None:
    """Write the results as JSON, as Markdown and as a picture, as far as there is one."""
    write_json(directory / "results.json", results.as_dict())
    text = tables.page(results, directory / LONG_RUN)
    (directory / "results.md").write_text(text, encoding="utf-8")
    if picture.possible():
        picture.save(results, directory / PICTURE.name)


def regions(text: str) -> list[str]:
    """The names of a text's regions, in order."""
    return [found["name"] for found in REGION.finditer(text)]


def rewritten(text: str, figures: Mapping[str, str]) -> str:
    """A text with its regions replaced; those without figures stay."""

    def replace(found: re.Match[str]) -> str:
        figure = figures.get(found["name"])
        return found[0] if figure is None else f"{found['start']}{figure}\n{found['end']}"

    return REGION.sub(replace, text)
