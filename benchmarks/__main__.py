"""``python -m benchmarks``: see ``--help`` for its subcommands."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import TYPE_CHECKING

from benchmarks import (
    attach,
    evidence,
    long,
    plan,
    readme,
    recycle,
    request,
    session,
    throughput,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.report import Outcome

PARTS = {
    module.__name__.rpartition(".")[2]: module
    for module in (attach, long, plan, readme, recycle, request, session, throughput)
}
"""The subcommands: modules with a docstring, `add_arguments` and `run`."""


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{evidence.__doc__}\nAbsolute figures of a busy machine mean little: both "
        "sides are\nmeasured in turns within one run, look at the ratios.\n",
        epilog="Parts of it, and more, are subcommands: "
        f"{', '.join(PARTS)}.\nSee python -m benchmarks SUBCOMMAND --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    part, chosen = evidence, parser
    if argv and argv[0] in PARTS:
        part = PARTS[argv[0]]
        chosen = parser.add_subparsers(dest="command", required=True).add_parser(
            argv[0],
            description=part.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    part.add_arguments(chosen)
    chosen.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    chosen.set_defaults(run=part.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark, or all that the README shows, and print the result.

    Args:
        argv: command-line arguments; None for those of the process.

    Returns:
        0, whether or not the goals were met; 1 if something could not be measured as intended.

    Raises:
        SystemExit: with status 2 for bad arguments.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = _parser(argv).parse_args(argv)
    result: Outcome = args.run(args)
    print(json.dumps(result.values, indent=2) if args.json else result.markdown)
    return 1 if result.problems else 0


def _end(signum: int, _frame: object) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    # Whatever ends it, it ends what it has started.
    signal.signal(signal.SIGTERM, _end)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
