"""Add up junit XML files, one for each pytest run, and print one summary line.

usage: python summary.py DIRECTORY

Exits 1 if no test passed or one failed.
"""
# ruff: noqa: INP001, T201

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

REASON = 400
"""Characters, at most."""


def outcome(case: ET.Element) -> tuple[str, str]:
    """Return what became of one test case, and where and why it failed."""
    for tag, name in (("error", "error"), ("failure", "failed"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            place = (found.text or "").strip().splitlines()[-1:]
            return name, " ".join([*place, *found.get("message", "").split()])[:REASON]
    return "passed", ""


def main(directory: Path) -> int:
    """Print the table of runs, what went wrong, and the totals; return the exit code."""
    totals = dict.fromkeys(("passed", "failed", "skipped", "error"), 0)
    wrong: list[str] = []
    for path in sorted(directory.glob("*.xml")):
        counts = dict.fromkeys(totals, 0)
        seconds = 0.0
        try:
            root = ET.parse(path).getroot()  # noqa: S314 - written by our own pytest
        except ET.ParseError as error:
            counts["error"] += 1
            wrong.append(f"ERROR {path.stem}: unreadable results: {error}")
        else:
            seconds = sum(float(suite.get("time", 0)) for suite in root.iter("testsuite"))
            # A test with a failed teardown is listed twice: count each once, at its worst.
            cases: dict[str, tuple[str, str]] = {}
            for case in root.iter("testcase"):
                name = f"{case.get('classname')}::{case.get('name')}"
                if name not in cases or cases[name][0] in {"passed", "skipped"}:
                    cases[name] = outcome(case)
            for name, (found, reason) in cases.items():
                counts[found] += 1
                if found in {"failed", "error"}:
                    wrong.append(f"{found.upper()} {path.stem}: {name}: {reason}")
        for name, count in counts.items():
            totals[name] += count
        listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        print(f"{path.stem}: {listed or 'no tests'} in {seconds:.0f} s")
    for line in wrong:
        print(line)
    errors = f", {totals['error']} errors" if totals["error"] else ""
    print(
        f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped{errors}"
    )
    return 0 if totals["passed"] and not totals["failed"] and not totals["error"] else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
