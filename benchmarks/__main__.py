"""``python -m benchmarks``: see ``--help`` for its subcommands."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from benchmarks import evidence, long, plan, readme, watch
from benchmarks.part import end_with_what_is_started

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBCOMMANDS = {"long": long, "plan": plan, "readme": readme, "watch": watch}
"""Modules with a docstring, `add_arguments` and `run`, which returns problems."""


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    chosen = parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{evidence.__doc__}\nAbsolute figures of a busy machine mean little: both "
        "sides are\nmeasured in turns within one run, look at the ratios.\n",
        epilog=f"Subcommands: {', '.join(SUBCOMMANDS)}.\n"
        "See python -m benchmarks SUBCOMMAND --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module = SUBCOMMANDS.get(argv[0], evidence) if argv else evidence
    if module is not evidence:
        chosen = parser.add_subparsers().add_parser(
            argv[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    module.add_arguments(chosen)
    chosen.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one benchmark, or all that README and docs/benchmarks.md show.

    Args:
        argv: command-line arguments.

    Returns:
        0; 1 if something could not be measured as intended.

    Raises:
        SystemExit: with status 2 for bad arguments.
    """
    args = _parser(argv).parse_args(argv)
    problems: Sequence[str] = args.run(args)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    end_with_what_is_started()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
