"""Write the figures of the last whole run into the README.

The README has regions between `<!-- benchmarks: NAME -->` and `<!-- end -->`; what is between them
is replaced by the figures of that name. The picture goes to `docs/benchmark.svg`. The page
with everything is written anew too.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import evidence, tables
from benchmarks.commands import ROOT
from benchmarks.long import RESULTS, STATE
from benchmarks.results import Results

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "benchmark.svg"
REGION = re.compile(
    r"(?P<start><!-- benchmarks: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


@dataclass
class Written:
    """What became of the README.

    Attributes:
        regions: names of the regions that were written.
        problems: names of the regions there are no figures for.
    """

    regions: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """The names as JSON text."""
        return json.dumps(vars(self))

    def as_markdown(self) -> str:
        """The names as text."""
        lines = [f"written: {', '.join(self.regions)}"]
        return "\n".join(lines + [f"no figures for {name}" for name in self.problems])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")


def run(args: argparse.Namespace) -> Written:
    """Rewrite the README, the page of all figures and the picture.

    Raises:
        OSError: there was no run.
    """
    results = Results.load_from(args.results / "results.json")
    figures = tables.fragments(results, args.results / STATE)
    evidence.write(results, args.results)
    text = README.read_text(encoding="utf-8")
    README.write_text(rewritten(text, figures), encoding="utf-8")
    picture = args.results / PICTURE.name
    if picture.exists():
        shutil.copyfile(picture, PICTURE)
    names = regions(text)
    return Written(
        [name for name in names if name in figures],
        [name for name in names if name not in figures],
    )


def regions(text: str) -> list[str]:
    """The names of a text's regions, in order."""
    return [found["name"] for found in REGION.finditer(text)]


def rewritten(text: str, figures: Mapping[str, str]) -> str:
    """A text with its regions replaced; those without figures stay."""

    def replace(found: re.Match[str]) -> str:
        figure = figures.get(found["name"])
        return found[0] if figure is None else f"{found['start']}{figure}\n{found['end']}"

    return REGION.sub(replace, text)
